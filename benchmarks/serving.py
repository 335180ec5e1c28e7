"""What serving adds to decoding and the network, under load as well, and folder scoring to both.

    python benchmarks/serving.py [--requests N] [--clients N] [--files N] [--seconds S]

A network of the committed scale with random weights is registered in a store of its own and
served by `mlflow models serve`. First one video of 720p is asked about over and over, and decoded
and scored in this process in turn. Then clients ask at the same time about short videos, a tenth
of them damaged. Last, `fvc predict` scores a folder, and beside it a loop that opens, decodes and
scores one file after the other. What decoding and the network need at least is their CPU time,
measured alone, over the number of cores.
"""

import base64
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import mlflow
import numpy as np
import psutil
import torch
from measuring import cpu_s, print_table, surroundings, verdict

from fvc.config import Params, load_params
from fvc.encoding import encode
from fvc.evidence.calibration import Calibration
from fvc.networks import ClipClassifier, build_network, save_network
from fvc.predict import clip_logits
from fvc.serving.packaging import log_model
from fvc.serving.settings import Settings
from fvc.video import read_clips

ROOT = Path(__file__).parents[1]
MOST_LATENCY = 1.15
LEAST_SHARE = 0.85
MOST_GROWTH = 1.05
DAMAGED = 10
"""Every so many of the requests under load."""
CALIBRATION = Calibration(
    temperature=1.0,
    threshold=0.5,
    abstain_low=0.4,
    abstain_high=0.6,
    criterion="macro_f1",
    target_error_rate=0.1,
    num_real=1,
    num_fake=1,
)


def moving(width: int, height: int, seconds: float, seed: int) -> bytes:
    """A video in which blurred noise moves, 30 frames a second, as H.264."""
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (height // 16 + 8, width // 16 + 8, 3), np.uint8)
    still = np.kron(coarse, np.ones((16, 16, 1), np.uint8))
    frames = (
        np.ascontiguousarray(still[step % 64 :, step % 96 :][:height, :width])
        for step in range(int(30 * seconds))
    )
    file = BytesIO()
    encode(file, frames, fps=30)
    return file.getvalue()


def register(params: Params, folder: Path) -> ClipClassifier:
    """Put a network into a store in the folder, as version 1 of the model `fvc`."""
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(os.environ["MLFLOW_TRACKING_URI"])
    experiment = mlflow.create_experiment("fvc", artifact_location=(folder / "runs").as_uri())
    torch.manual_seed(0)
    network = build_network(params.model, params.clips).eval()
    save_network(network, folder / "network", params.model, params.clips)
    settings = Settings(clips=params.clips, calibration=CALIBRATION, limits=params.serving)
    with mlflow.start_run(experiment_id=experiment) as run:
        log_model("fvc", folder / "network", settings, [], run_id=run.info.run_id, tags={})
    return network


@contextmanager
def served(folder: Path) -> Iterator[tuple[str, psutil.Process, float]]:
    """The address of the server, its process, and how long it took to start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", "models:/fvc/1", "--env-manager=local"]
    started = time.monotonic()
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen([*command, "-p", str(port)], stdout=log, stderr=log)
    try:
        while True:
            if server.poll() is not None:
                raise SystemExit((folder / "server.log").read_text())
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield (
            f"http://127.0.0.1:{port}/invocations",
            psutil.Process(server.pid),
            (time.monotonic() - started),
        )
    finally:
        for process in [*psutil.Process(server.pid).children(recursive=True), server]:
            process.terminate()
        server.wait()


def ask(address: str, body: bytes) -> dict[str, Any]:
    """One request."""
    request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=300) as reply:
        [answer] = json.load(reply)["predictions"]
    return dict(answer)


def body_of(video: bytes) -> bytes:
    """The body of a request."""
    row = {"video": base64.b64encode(video).decode()}
    return json.dumps({"dataframe_records": [row]}).encode()


def memory_mib(server: psutil.Process) -> float:
    """Of the server and all processes below it."""
    family = [server, *server.children(recursive=True)]
    return sum(process.memory_info().rss for process in family) / 2**20


def latency(
    address: str, video: bytes, network: ClipClassifier, params: Params
) -> tuple[float, float]:
    """Seconds by the clock of a request, and of decoding and scoring here: medians, in turn."""
    body, took = body_of(video), []
    for _ in range(25):
        started = time.perf_counter()
        ask(address, body)
        served_s = time.perf_counter()
        clip_logits(network, torch.from_numpy(read_clips(BytesIO(video), params.clips).pixels))
        took.append((served_s - started, time.perf_counter() - served_s))
    served, alone = np.median(took, axis=0)
    return float(served), float(alone)


def needed_s(videos: Sequence[bytes], network: ClipClassifier, params: Params) -> float:
    """CPU time to decode and score one of these on one thread, in the mean, after a first time."""
    took, usual = [], torch.get_num_threads()
    torch.set_num_threads(1)
    for video in [videos[0], *videos]:
        started = cpu_s()
        clip_logits(network, torch.from_numpy(read_clips(BytesIO(video), params.clips).pixels))
        took.append(cpu_s() - started)
    torch.set_num_threads(usual)
    return float(np.mean(took[1:]))


def loaded(
    address: str, server: psutil.Process, videos: Sequence[bytes], requests: int, clients: int
) -> dict[str, float]:
    """Ask from several threads at once; gives rates, times, memory and the clients' CPU time."""
    bodies = [body_of(video) for video in videos]
    broken = body_of(b"no video at all")
    took: list[float] = []
    memory: list[float] = []

    def one(number: int) -> bool:
        started = time.perf_counter()
        answer = ask(address, broken if number % DAMAGED == 0 else bodies[number % len(bodies)])
        took.append(time.perf_counter() - started)
        if number % 50 == 0:
            memory.append(memory_mib(server))
        return (answer["error"] is None) == bool(number % DAMAGED)

    cpu, started = cpu_s(), time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        right = sum(threads.map(one, range(requests)))
    seconds = time.perf_counter() - started
    after_100 = memory[2:3] or memory[:1]
    return {
        "wrong": requests - right,
        "rate": requests / seconds,
        "client_share": (cpu_s() - cpu) / seconds,
        "p95_s": float(np.percentile(took, 95)),
        "growth": memory[-1] / after_100[0],
    }


def predicted(folder: Path) -> tuple[float, float]:
    """Seconds that `fvc predict` takes for a folder, and the most memory, in MiB."""
    command = [sys.executable, "-m", "fvc", "predict", str(folder), "--model", "models:/fvc/1"]
    out, started = folder.with_suffix(".jsonl"), time.perf_counter()
    process = subprocess.Popen([*command, "--out", str(out)], cwd=ROOT, stderr=subprocess.DEVNULL)
    watched, most = psutil.Process(process.pid), 0.0
    while process.poll() is None:
        # It may end between the two.
        with suppress(psutil.NoSuchProcess):
            most = max(most, memory_mib(watched))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"fvc predict ended with {process.returncode}")
    return time.perf_counter() - started, most


def import_s() -> float:
    """Seconds that a new interpreter takes to import what answers, MLflow and torch included."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import fvc.serving.model"], cwd=ROOT, check=True)
    return time.perf_counter() - started


@dataclass(frozen=True, kw_only=True, slots=True)
class Served:
    """What was measured of the server."""

    import_s: float
    start_s: float
    served_s: float
    alone_s: float
    one: Mapping[str, float]
    """Under load of one client."""
    many: Mapping[str, float]
    """Under load of several."""


def measure_server(
    folder: Path, short: Sequence[bytes], network: ClipClassifier, params: Params, args: Namespace
) -> Served:
    """Start the server, ask it alone, then load it."""
    large = moving(1280, 720, args.seconds, 0)
    with served(folder) as (address, server, start_s):
        ask(address, body_of(short[0]))
        served_s, alone_s = latency(address, large, network, params)
        few = max(args.requests // 8, DAMAGED)
        return Served(
            import_s=min(import_s() for _ in range(2)),
            start_s=start_s,
            served_s=served_s,
            alone_s=alone_s,
            one=loaded(address, server, short, few, 1),
            many=loaded(address, server, short, args.requests, args.clients),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Predicted:
    """What was measured of `fvc predict`."""

    file_s: float
    """Of one more file, which leaves its start out."""
    looped_s: float
    """Of a file in a loop that decodes and scores one after the other."""
    most_mib: float
    few_mib: float
    """Most memory with a tenth of the files."""


def measure_folder(
    folder: Path, short: Sequence[bytes], network: ClipClassifier, params: Params, files: int
) -> Predicted:
    """Score a folder, and a tenth of it."""
    folders = {folder / "few": max(files // 10, 2), folder / "many": files}
    for target, count in folders.items():
        target.mkdir()
        for number in range(count):
            (target / f"{number:06}.mp4").write_bytes(short[number % len(short)])
    (few_s, few_mib), (many_s, many_mib) = map(predicted, folders)
    few, many = folders.values()
    started = time.perf_counter()
    for file in sorted((folder / "few").iterdir()):
        clip_logits(network, torch.from_numpy(read_clips(file, params.clips).pixels))
    return Predicted(
        file_s=(many_s - few_s) / (many - few),
        looped_s=(time.perf_counter() - started) / few,
        most_mib=many_mib,
        few_mib=few_mib,
    )


def report(needed: float, server: Served, folder: Predicted, clients: int) -> bool:
    """Print the figures; whether the promises are kept."""
    cores, one, many = len(os.sched_getaffinity(0)), server.one, server.many
    rows = [
        ["import of what answers, s", f"{server.import_s:.1f}"],
        ["start of the server, s", f"{server.start_s:.1f}"],
        ["a 720p video served, ms", f"{server.served_s * 1000:.0f}"],
        ["decoded and scored in process, ms", f"{server.alone_s * 1000:.0f}"],
        ["CPU time to decode and score a short one, ms", f"{needed * 1000:.1f}"],
        [f"requests/s, {clients} clients", f"{many['rate']:.1f}"],
        ["requests/s, one client", f"{one['rate']:.1f}"],
        ["95th percentile of a request under load, s", f"{many['p95_s']:.2f}"],
        ["wrong answers", f"{many['wrong'] + one['wrong']:.0f}"],
        ["cores that the clients took", f"{many['client_share']:.2f}"],
        ["files/s, fvc predict", f"{1 / folder.file_s:.1f}"],
        ["files/s, a loop", f"{1 / folder.looped_s:.1f}"],
        ["most memory, all files and a tenth, MiB", f"{folder.most_mib:.0f}, {folder.few_mib:.0f}"],
    ]
    print_table(["", ""], rows)
    print(f"{clients} clients / one: {many['rate'] / one['rate']:.2f}")
    print(f"fvc predict / loop: {folder.looped_s / folder.file_s:.2f}")
    useful = needed * (1 - 1 / DAMAGED)
    share = many["rate"] * useful / (cores - many["client_share"])
    kept = verdict(
        {
            "a served video / in process": (-server.served_s / server.alone_s, -MOST_LATENCY),
            "share of the cores under load": (share, LEAST_SHARE),
            "memory after all requests / after 100": (-many["growth"], -MOST_GROWTH),
            "share of the cores, fvc predict": (needed / folder.file_s / cores, LEAST_SHARE),
            "memory of all files / of a tenth": (-folder.most_mib / folder.few_mib, -1.1),
        }
    )
    return kept and not many["wrong"] + one["wrong"]


def main(argv: Sequence[str] | None = None) -> int:
    """Print the figures; 0 if the promises are kept."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=500)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the 720p video")
    args = parser.parse_args(argv)
    cores, params = len(os.sched_getaffinity(0)), load_params(ROOT / "params.yaml")
    print(surroundings(["torch", "mlflow", "av"]), f"\n{cores} cores\n")
    short = [moving(320, 240, 2.0, seed) for seed in range(20)]
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        network = register(params, folder)
        torch.set_num_threads(cores)
        # The same work takes more of it while others use the machine: before, between, after.
        needed = [needed_s(short, network, params)]
        server = measure_server(folder, short, network, params, args)
        needed.append(needed_s(short, network, params))
        scored = measure_folder(folder, short, network, params, args.files)
        needed.append(needed_s(short, network, params))
    return 0 if report(float(np.mean(needed)), server, scored, args.clients) else 1


if __name__ == "__main__":
    sys.exit(main())
