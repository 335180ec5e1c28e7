import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from fvc import process
from fvc.__main__ import main
from fvc.errors import FvcError
from fvc.stages import rollback
from fvc.tracking import registry

KILLED = Path(__file__).parent / "killing_register.py"


@pytest.fixture
def versions(store: MlflowClient, tmp_path: Path) -> MlflowClient:
    """Three versions with files: the second has replaced the first, the third was refused."""
    store.create_registered_model("fvc")
    for number in range(1, 4):
        folder = tmp_path / "models" / str(number)
        (folder / "artifacts" / "network").mkdir(parents=True)
        (folder / "artifacts" / "network" / "serving.json").write_text("{}")
        store.create_model_version("fvc", folder.as_uri())
    for alias, serving in {"champion": "2", "previous": "1", "challenger": "3"}.items():
        store.set_registered_model_alias("fvc", alias, serving)
    return store


def state(store: MlflowClient) -> tuple[dict[str, str], dict[str, bool]]:
    """Who has which alias, and which versions are withdrawn."""
    model = store.get_registered_model("fvc")
    aliases = {alias: str(number) for alias, number in model.aliases.items()}
    withdrawn = {
        number: store.get_model_version("fvc", number).tags.get("fvc.withdrawn") == "true"
        for number in ("1", "2", "3")
    }
    assert registry.PENDING not in model.tags
    return aliases, withdrawn


def test_it_swaps_and_a_second_time_swaps_back(
    versions: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    before = state(versions)
    rollback.run()
    said = "rollback: version 1 is champion again, version 2 is 'previous'\n"
    assert capsys.readouterr().err == said
    aliases, withdrawn = state(versions)
    assert aliases == {"champion": "1", "previous": "2", "challenger": "3"}
    assert withdrawn == {"1": False, "2": True, "3": False}
    rollback.run()
    assert state(versions) == before


@pytest.mark.parametrize(
    ("alias", "said"),
    [
        ("champion", "fvc: no version has the alias 'champion'. Give it to the version that shall"),
        ("previous", "fvc: no version has the alias 'previous', as no champion was replaced yet."),
    ],
)
def test_without_both_it_is_one_line(
    versions: MlflowClient, capsys: pytest.CaptureFixture[str], alias: str, said: str
) -> None:
    versions.delete_registered_model_alias("fvc", alias)
    before = state(versions)
    with pytest.raises(FvcError) as caught:
        rollback.run()
    assert str(caught.value).startswith(said)
    assert (state(versions), capsys.readouterr().err) == (before, "")


@pytest.mark.usefixtures("store")
def test_without_any_version_it_is_one_line() -> None:
    with pytest.raises(FvcError, match="no version has the alias 'champion'"):
        rollback.run()


def test_one_version_with_both_aliases_is_named(versions: MlflowClient) -> None:
    versions.set_registered_model_alias("fvc", "previous", "2")
    with pytest.raises(FvcError, match="version 2 is 'champion' and 'previous'"):
        rollback.run()


def test_a_version_without_files_does_not_get_into_service(
    versions: MlflowClient, tmp_path: Path
) -> None:
    shutil.rmtree(tmp_path / "models" / "1")
    before = state(versions)
    with pytest.raises(FvcError, match=r"models:/fvc/1: its files cannot be read"):
        rollback.run()
    assert state(versions) == before


def test_a_stopped_change_to_a_version_that_was_deleted_names_the_remedy(
    versions: MlflowClient,
) -> None:
    stopped = {"command": "register", "aliases": {"champion": "9"}, "tags": {}}
    versions.set_registered_model_tag("fvc", registry.PENDING, json.dumps(stopped))
    with pytest.raises(FvcError, match=r"cannot be finished.*Delete the tag 'fvc\.pending'"):
        rollback.run()
    versions.delete_registered_model_tag("fvc", registry.PENDING)
    rollback.run()


def test_it_takes_turns_with_a_registration(
    versions: MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("fvc.process.end_with_parent", lambda: None)
    pipeline = "stages:\n  register:\n    cmd: python -m fvc register\n"
    (tmp_path / "dvc.yaml").write_text(pipeline)
    before = state(versions)
    with process.only_one("register", process.LOCKS):
        assert main(["rollback"]) == 1
    assert "register: is already running" in capsys.readouterr().err
    assert state(versions) == before
    assert main(["rollback"]) == 0
    assert state(versions)[0]["champion"] == "1"


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_killed_anywhere_promotion_refusal_and_rollback_end_in_the_right_aliases(
    tmp_path: Path,
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(KILLED), str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    kills = json.loads(done.stdout.splitlines()[-1])
    assert min(kills.values()) >= 3, "hardly anything was killed, so nothing was shown"
