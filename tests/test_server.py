"""The server under hostile requests, under kills, and in an environment of its own."""

import http.client
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
import psutil
import pytest
import torch
from hostile_requests import JSON, asking, good_video, hostile_requests
from http_server import served
from outcomes import CALIBRATION
from proxying import ABSENT, NGINX, proxied
from settings import serving_config
from source_tree import ROOT

from fvc.config import load_params
from fvc.networks import build_network, save_network
from fvc.serving.packaging import log_model
from fvc.serving.settings import Settings

pytestmark = pytest.mark.slow
LIMITS = serving_config(
    max_mib=20.0, max_megapixels=16.0, max_duration_s=600.0, max_frames=20_000, timeout_s=10.0
)
SLACK_S = 10.0
"""A request takes no longer than decoding may, and this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Registered:
    """A version of the model `fvc` in a store of its own."""

    environment: dict[str, str]
    place: Path
    """Where a server may run; nothing is there."""
    scratch: Path
    """Its temporary files, and nothing else."""
    log: Path


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory) -> Registered:
    root = tmp_path_factory.mktemp("registered")
    params = load_params(ROOT / "params.yaml")
    torch.manual_seed(0)
    network = build_network(params.model, params.clips)
    save_network(network, root / "network", params.model, params.clips)
    settings = Settings(clips=params.clips, calibration=CALIBRATION, limits=LIMITS)
    uri = f"sqlite:///{root / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    experiment = mlflow.create_experiment("fvc", artifact_location=(root / "runs").as_uri())
    with mlflow.start_run(experiment_id=experiment) as run:
        log_model("fvc", root / "network", settings, [], run_id=run.info.run_id, tags={})
    mlflow.set_tracking_uri("")
    for name in ("place", "scratch"):
        (root / name).mkdir()
    own = {"MLFLOW_TRACKING_URI": uri, "TMPDIR": str(root / "scratch")}
    return Registered(
        environment={**os.environ, **own},
        place=root / "place",
        scratch=root / "scratch",
        log=root / "log",
    )


@pytest.fixture(scope="module")
def server(registered: Registered) -> Iterator[tuple[str, int]]:
    """The address and the process of the server."""
    with served(
        "models:/fvc/1",
        folder=registered.place,
        environment=registered.environment,
        log=registered.log,
    ) as started:
        yield started


def post(address: str, body: bytes, content_type: str = JSON) -> tuple[int, Any]:
    """The status of an answer, and what it says if that is JSON."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.netloc, timeout=LIMITS.timeout_s + SLACK_S)
    try:
        connection.request("POST", parts.path, body, {"Content-Type": content_type})
        reply = connection.getresponse()
        content = reply.read()
    finally:
        connection.close()
    try:
        return reply.status, json.loads(content)
    except ValueError:
        return reply.status, None


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


def test_two_hundred_hostile_requests_are_refused_one_by_one(
    server: tuple[str, int], registered: Registered
) -> None:
    address, _ = server
    good = asking(good_video())
    status, content = post(address, good)
    assert status == 200
    [expected] = content["predictions"]
    assert expected["error"] is None
    before = files_of(registered.scratch) | files_of(registered.place)
    requests = list(hostile_requests())
    assert len({request.name for request in requests}) == len(requests) >= 200
    wrong: dict[str, str] = {}
    for request in requests:
        started = time.monotonic()
        status, content = post(address, request.body, request.content_type)
        took_s = time.monotonic() - started
        rows = content["predictions"] if status == 200 else []
        if not (status >= 400 or (rows and all(row["error"] for row in rows))):
            wrong[request.name] = f"status {status}: {str(content)[:300]}"
        elif took_s > LIMITS.timeout_s + SLACK_S:
            wrong[request.name] = f"took {took_s:.1f} s"
        status, content = post(address, good)
        if status != 200 or content["predictions"] != [expected]:
            wrong[f"a good one after {request.name}"] = f"status {status}: {str(content)[:300]}"
    assert not wrong, "\n".join(f"{name}: {said}" for name, said in wrong.items())
    after = files_of(registered.scratch) | files_of(registered.place)
    assert after == before, "a request left a file behind"


def test_kills_of_decoders_under_load_cost_what_they_held(server: tuple[str, int]) -> None:
    address, process_id = server
    good, num_kills, done = asking(good_video()), 6, threading.Event()
    killed = 0

    def kill() -> None:
        nonlocal killed
        while killed < num_kills and not done.wait(1.5):
            for process in psutil.Process(process_id).children(recursive=True):
                # One that was killed before may not have been waited for yet.
                with suppress(psutil.NoSuchProcess):
                    if "decoder_process" in " ".join(process.cmdline()):
                        process.send_signal(signal.SIGKILL)
                        killed += 1
                        break

    killer = threading.Thread(target=kill)
    killer.start()
    answered: list[tuple[int, Any]] = []
    with ThreadPoolExecutor(4) as clients:
        while killer.is_alive():
            answered += clients.map(lambda _: post(address, good), range(20))
    done.set()
    killer.join()
    assert killed == num_kills
    assert {status for status, _ in answered} == {200}, "a connection failed"
    errors = [content["predictions"][0]["error"] for _, content in answered]
    lost = [error for error in errors if error is not None]
    assert all(error.startswith("crashed") for error in lost)
    assert len(lost) <= num_kills, "a kill cost more than the video that its process held"
    status, content = post(address, good)
    assert (status, content["predictions"][0]["error"]) == (200, None)


def test_health_and_version_are_answered(server: tuple[str, int]) -> None:
    root = server[0].removesuffix("/invocations")
    for path in ("ping", "health"):
        with urllib.request.urlopen(f"{root}/{path}", timeout=10) as reply:
            assert reply.status == 200
    with urllib.request.urlopen(f"{root}/version", timeout=10) as reply:
        assert reply.read().decode() == mlflow.__version__


@pytest.mark.skipif(NGINX is None, reason=ABSENT)
def test_a_proxy_in_front_changes_no_answer(server: tuple[str, int], tmp_path: Path) -> None:
    good, behind = asking(good_video()), urlsplit(server[0]).port
    assert behind is not None
    with proxied(behind, tmp_path) as port:
        assert post(f"http://127.0.0.1:{port}/invocations", good) == post(server[0], good)


def test_the_model_is_served_in_an_environment_of_its_own(
    server: tuple[str, int], registered: Registered
) -> None:
    """With nothing installed but what was registered, the answer is the same."""
    good = asking(good_video(), params={"explain": True})
    own = {**registered.environment, "MLFLOW_ENV_ROOT": str(registered.scratch / "environments")}
    own.pop("PYTHONPATH", None)
    with served(
        "models:/fvc/1",
        folder=registered.place,
        environment=own,
        log=registered.log.with_name("uv.log"),
        manager="uv",
        start_s=600,
    ) as (address, process_id):
        status, content = post(address, good)
        commands = [
            " ".join(process.cmdline())
            for process in psutil.Process(process_id).children(recursive=True)
        ]
    assert status == 200, content
    assert content == post(server[0], good)[1]
    assert any("environments" in command for command in commands), "it ran in this environment"
