"""A shared MLflow server, used by those who have a name and a password and nothing of its store."""

import base64
import http.client
import json
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from clones import Clone, clone_of, make_small
from http_server import served
from logging_worker import SERIES
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from proxying import ABSENT as NO_NGINX
from proxying import NGINX
from shared_server import (
    ABSENT,
    NAME,
    POSTGRES,
    READER,
    TRAINER,
    SharedServer,
    acting_as,
    behind_nginx,
    client,
    own_environment,
    setting,
    shared_server,
)
from source_tree import ROOT

from fvc.tracking.answers import refusal
from fvc.tracking.sending import Calls
from fvc.tracking.waiting import send_waiting, waiting_run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(POSTGRES is None, reason=ABSENT),
]
WORKER = Path(__file__).with_name("logging_worker.py")
EPOCHS = 100
"""So a run logs 1,000 metrics."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedServer]:
    with shared_server(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.fixture
def store(server: SharedServer) -> Iterator[MlflowClient]:
    """What a trainer sees of the server."""
    with acting_as(server, TRAINER):
        yield MlflowClient(server.uri)


def start(
    server: SharedServer, folder: Path, number: int, *, pause_s: float = 0, patience_s: float = 60
) -> "subprocess.Popen[str]":
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(number), str(EPOCHS), str(pause_s), str(patience_s)],
        cwd=folder,
        env=own_environment() | server.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(worker: "subprocess.Popen[str]") -> str:
    _, err = worker.communicate(timeout=600)
    assert worker.returncode == 0, err
    return err


def assert_whole(store: MlflowClient, run_id: str, number: int) -> None:
    assert store.get_run(run_id).info.status == "FINISHED"
    for series in range(SERIES):
        points = store.get_metric_history(run_id, f"s{series}")
        found = sorted((point.step, point.value) for point in points)
        logged = [(epoch + 1, number + epoch + series / 10) for epoch in range(EPOCHS)]
        assert found == logged, f"of {EPOCHS} values of s{series}, {len(found)} are there"
    [file] = store.list_artifacts(run_id)
    assert (file.path, file.file_size) == (f"checkpoint-{number}.pt", 2**20)


def test_of_eight_runs_at_once_nothing_is_lost(
    server: SharedServer, store: MlflowClient, tmp_path: Path
) -> None:
    workers = [start(server, tmp_path / str(number), number) for number in range(8)]
    runs = [(worker.stdout.readline().strip() if worker.stdout else "") for worker in workers]
    for worker in workers:
        assert "wait in" not in ended(worker)
    for number, run_id in enumerate(runs):
        assert_whole(store, run_id, number)


def test_of_a_run_whose_server_is_killed_nothing_is_lost(
    server: SharedServer, store: MlflowClient, tmp_path: Path
) -> None:
    worker = start(server, tmp_path, 3, pause_s=0.05, patience_s=600)
    assert worker.stdout is not None
    run_id = worker.stdout.readline().strip()
    while not store.get_metric_history(run_id, "s0"):
        time.sleep(0.1)
    server.kill()
    waiting = tmp_path / "work/runs/waiting" / run_id
    deadline = time.monotonic() + 60
    while len(list(waiting.glob("*.json"))) < 10:
        assert worker.poll() is None, worker.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.1)
    server.start()
    assert "what is logged waits in" in ended(worker)
    assert_whole(store, run_id, 3)
    assert not waiting.exists()


def test_a_full_bucket_costs_no_run(
    server: SharedServer, store: MlflowClient, tmp_path: Path
) -> None:
    server.full.touch()
    try:
        worker = start(server, tmp_path, 5, patience_s=2)
        run_id = worker.stdout.readline().strip() if worker.stdout else ""
        last = ended(worker).splitlines()[-1]
        assert last.startswith("warning: 2 calls to MLflow wait in ")
        assert last.endswith(
            "could not do it (500)); 'fvc send' or the next 'dvc repro' sends them"
        )
        user = own_environment() | server.environment()
        # MLflow's client would try for minutes.
        refused = send(tmp_path, user | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"})
        assert refused.returncode == 1
        assert refused.stderr.count("\n") == 1
        assert "waits for MLflow to take it" in refused.stderr
    finally:
        server.full.unlink()
    assert send(tmp_path, user).stderr == "send: sent what waited, of 1 runs\n"
    assert_whole(store, run_id, 5)


def send(folder: Path, environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["fvc", "send"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def clone(server: SharedServer, tmp_path_factory: pytest.TempPathFactory) -> Clone:
    """One in which the pipeline has run against the server."""
    clone = clone_of(ROOT, tmp_path_factory.mktemp("clone") / "fvc")
    make_small(clone)
    clone.environment |= server.environment()
    clone.must("dvc", "repro")
    assert not (clone.folder / "mlflow.db").exists()
    assert not (clone.folder / "mlruns").exists()
    return clone


def test_the_pipeline_has_its_runs_files_and_versions_on_the_server(
    clone: Clone, server: SharedServer, store: MlflowClient
) -> None:
    experiment = store.get_experiment_by_name("fvc")
    assert experiment is not None
    assert experiment.artifact_location.startswith("mlflow-artifacts:/")
    runs = store.search_runs([experiment.experiment_id], "tags.`fvc.kind` != ''")
    kinds = sorted(run.data.tags["fvc.kind"] for run in runs)
    assert kinds == ["cross-validation", "fold"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert not [run for run in runs if "fvc.restored" in run.data.tags]
    fold = next(run for run in runs if run.data.tags["fvc.kind"] == "fold")
    names = {file.path for file in store.list_artifacts(fold.info.run_id)}
    assert names >= {"weights.safetensors", "predictions.parquet", "train.log"}
    listed = client(server.s3).list_objects_v2(Bucket=server.bucket)["Contents"]
    assert any(each["Key"].endswith(f"{fold.info.run_id}/artifacts/train.log") for each in listed)
    assert store.get_model_version_by_alias("fvc", "champion").run_id in {
        run.info.run_id for run in runs
    }
    assert "up to date" in clone.must("dvc", "repro")


@pytest.mark.parametrize("downloads", [{}, {"MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD": "false"}])
def test_who_may_only_read_can_serve_the_champion(
    clone: Clone, server: SharedServer, tmp_path: Path, downloads: dict[str, str]
) -> None:
    environment = own_environment() | server.environment(READER) | downloads
    signed = server.signed_requests()
    video = next((clone.folder / "work/videos").rglob("video.*"))
    record = {"video": base64.b64encode(video.read_bytes()).decode()}
    body = json.dumps({"dataframe_records": [record]}).encode()
    with served(
        "models:/fvc@champion", folder=tmp_path, environment=environment, log=tmp_path / "log"
    ) as (address, _):
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=120) as reply:
            [answer] = json.load(reply)["predictions"]
    assert answer["error"] is None
    assert answer["verdict"] in ("real", "fake", "uncertain")
    # Unless told otherwise, files come from the store itself, by addresses that the server signs.
    assert (server.signed_requests() > signed) is not bool(downloads)


@pytest.fixture
def name_leads_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a name server would do for the address of the server."""
    find = socket.getaddrinfo

    def found(host: str, *args: Any, **kwargs: Any) -> Any:
        return find("127.0.0.1" if host == NAME else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", found)


def ask_as_a_page(port: int, certificate: Path, origin: str) -> tuple[int, bytes]:
    """What a browser gets for what MLflow's list of runs asks, from a page of that origin."""
    trusted = ssl.create_default_context(cafile=str(certificate))
    connection = http.client.HTTPSConnection(NAME, port, context=trusted, timeout=60)
    password = base64.b64encode(":".join(TRAINER).encode()).decode()
    headers = {
        "Host": NAME,
        "Origin": origin,
        "Authorization": f"Basic {password}",
        "Content-Type": "application/json",
    }
    with closing(connection):
        body = json.dumps({"experiment_ids": ["0"]})
        connection.request("POST", "/ajax-api/2.0/mlflow/runs/search", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()


@pytest.mark.skipif(NGINX is None, reason=NO_NGINX)
@pytest.mark.usefixtures("name_leads_here")
def test_behind_nginx_programs_and_pages_reach_it_by_its_name(
    server: SharedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(bytes(3 * 2**20))
    with behind_nginx(server, tmp_path / "nginx") as (port, certificate):
        assert ask_as_a_page(port, certificate, f"https://{NAME}")[0] == 200
        refused = ask_as_a_page(port, certificate, "https://elsewhere.example.org")
        assert refused == (403, b"Cross-origin request blocked")
        with through(server, port, certificate) as client:
            run_id = client.create_run("0").info.run_id
            with waiting_run(client, run_id) as run:
                run.log_file(checkpoint)
            [file] = client.list_artifacts(run_id)
            assert (file.path, file.file_size) == (checkpoint.name, 3 * 2**20)


@contextmanager
def through(server: SharedServer, port: int, certificate: Path) -> Iterator[MlflowClient]:
    """A trainer who has the proxy's address, with no tries but the first."""
    address = f"https://{NAME}:{port}"
    ours = {
        "MLFLOW_TRACKING_URI": address,
        "MLFLOW_TRACKING_SERVER_CERT_PATH": str(certificate),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    with acting_as(server, TRAINER), setting(ours):
        yield MlflowClient(address)


@pytest.mark.skipif(NGINX is None, reason=NO_NGINX)
@pytest.mark.usefixtures("name_leads_here")
def test_a_proxy_that_hides_the_name_or_limits_files_is_known(
    server: SharedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "checkpoint.pt"
    checkpoint.write_bytes(bytes(3 * 2**20))
    hidden = {"Host $host;": "Host inside.example.org;"}
    with (
        behind_nginx(server, tmp_path / "hidden", hidden) as (port, certificate),
        through(server, port, certificate) as client,
        pytest.raises(MlflowException) as unknown,
    ):
        client.create_run("0")
    assert "was not told that it is called so (403)" in str(refusal(unknown.value))
    short = {"client_max_body_size 0;": ""}
    with (
        behind_nginx(server, tmp_path / "short", short) as (port, certificate),
        through(server, port, certificate) as client,
    ):
        run_id = client.create_run("0").info.run_id
        with waiting_run(client, run_id) as run:
            run.log_file(checkpoint)
            run.set_tags({"after": "it"})
        ended = client.get_run(run_id)
    assert (ended.info.status, ended.data.tags["after"]) == ("FINISHED", "it")
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: 1 calls to MLflow were refused for good and are kept in ")
    assert "takes nothing so long (413)" in line
    kept = tmp_path / "work/runs/refused" / run_id
    kept.rename(tmp_path / "work/runs/waiting" / run_id)
    done = send(tmp_path, own_environment() | server.environment())
    assert done.stderr == "send: sent what waited, of 1 runs\n"
    with acting_as(server, TRAINER):
        [file] = MlflowClient(server.uri).list_artifacts(run_id)
    assert file.file_size == 3 * 2**20


def test_what_waits_for_a_run_that_is_gone_holds_up_nobody(
    store: MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    run_id = store.create_run("0").info.run_id
    for number in (run_id, "0" * 32):
        Calls(tmp_path / "work/runs/waiting" / number).add("set_tags", tags={"a": "b"})
    store.delete_run(run_id)
    assert send_waiting(store, "of an evaluation") == 1
    absent, deleted = capsys.readouterr().err.splitlines()
    # A server with users does not say that it has no such run.
    assert "refuses this to this user (403)" in absent
    assert "refused for good" in deleted


@pytest.mark.parametrize(
    ("user", "said"),
    [
        ((TRAINER[0], "another password"), "does not know this user, or the password is another"),
        (READER, "refuses this to this user (403). Ask its administrator for the role"),
    ],
)
def test_a_refused_user_is_told_in_one_line(
    clone: Clone, server: SharedServer, user: tuple[str, str], said: str
) -> None:
    done = clone.run("fvc", "evaluate", "--only-track", **server.environment(user))
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {server.uri}: {said}")
