import json
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from fvc.errors import FvcError
from fvc.tracking import registry


@pytest.fixture
def client(store: MlflowClient, tmp_path: Path) -> MlflowClient:
    """Four versions, of which none has files; the last two are of one candidate."""
    store.create_registered_model("fvc")
    for candidate in "abcc":
        tags = {registry.CANDIDATE: candidate}
        store.create_model_version("fvc", (tmp_path / candidate).as_uri(), tags=tags)
    return store


def found(client: MlflowClient, candidate: str) -> str | None:
    version = registry.find_version(client, candidate)
    return None if version is None else registry.number_of(version)


def test_a_candidate_is_found_by_its_first_version_that_is_ready(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [found(client, candidate) for candidate in "abcd"] == ["1", "2", "3", None]
    search = client.search_model_versions

    def third_is_pending(*args: str, **kwargs: str) -> object:
        versions = search(*args, **kwargs)  # type: ignore[arg-type]
        for version in versions:
            if str(version.version) == "3":
                version._status = "PENDING_REGISTRATION"
        return versions

    monkeypatch.setattr(client, "search_model_versions", third_is_pending)
    assert found(client, "c") == "4", "a version whose files never came is taken for whole"


def test_readings_count_networks_and_not_how_often_each_was_scored(store: MlflowClient) -> None:
    assert registry.count_readings(store, "d" * 64) == 0
    for weights in ("1", "2", "2"):
        registry.mark_read(store, "d" * 64, weights * 64)
    registry.mark_read(store, "e" * 64, "3" * 64)
    counts = [registry.count_readings(store, digest * 64) for digest in "def"]
    assert counts == [2, 1, 0]


@pytest.mark.usefixtures("client")
def test_a_version_whose_files_are_gone_is_named() -> None:
    with (
        pytest.raises(FvcError, match=r"models:/fvc/1: its files cannot be read"),
        registry.stored("1"),
    ):
        raise AssertionError("there is nothing to read")


def test_what_was_stopped_is_finished_once(client: MlflowClient) -> None:
    assert registry.finish(client) is None
    change = registry.Change(
        command="register",
        aliases={"previous": "1", "champion": "2"},
        tags={"2": {"fvc.weighed": "x"}},
    )
    pending = {"command": "register", "aliases": change.aliases, "tags": change.tags}
    client.set_registered_model_tag("fvc", registry.PENDING, json.dumps(pending))
    assert registry.finish(client) == change
    assert registry.finish(client) is None
    model = client.get_registered_model("fvc")
    assert {alias: str(number) for alias, number in model.aliases.items()} == change.aliases
    assert client.get_model_version("fvc", "2").tags["fvc.weighed"] == "x"


def test_a_registry_without_the_model_has_nothing(store: MlflowClient) -> None:
    assert registry.finish(store) is None
    assert registry.version_of(store, "champion") is None
    assert registry.find_version(store, "a") is None
