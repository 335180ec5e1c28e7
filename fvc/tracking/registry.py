"""The only door to MLflow's registered versions: which there are, and which are in service."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import mlflow
from mlflow.entities.model_registry import ModelVersion, RegisteredModel
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from fvc.errors import FvcError

NAME = "fvc"
"""Of the registered model."""

CANDIDATE = "fvc.candidate"
"""Tag of a version: the digest of what was registered."""

PENDING = "fvc.pending"
"""Tag of the model while aliases move: the change that is being made."""

WITHDRAWN = "fvc.withdrawn"
"""Tag of a version: `true` while a person keeps it out of service."""

ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE", "NOT_FOUND")
"""What stores answer where a model, an alias or a file is not there."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """What is to become true of the registry, all of it or nothing."""

    command: str
    """Whose change it is: `register`, `rollback` or `ensemble`."""
    aliases: Mapping[str, str]
    """The number of a version by alias, in the order in which they move."""
    tags: Mapping[str, Mapping[str, str]]
    """The tags that versions get, by their numbers."""


def registered_model(client: MlflowClient) -> RegisteredModel | None:
    """The model with its aliases and tags; None before its first version."""
    try:
        return client.get_registered_model(NAME)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def version_of(client: MlflowClient, alias: str) -> ModelVersion | None:
    """The version that has an alias."""
    try:
        return client.get_model_version_by_alias(NAME, alias)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def number_of(version: ModelVersion) -> str:
    """The number of a version; a store gives it as a text or as an integer."""
    return str(version.version)


def same_version(one: ModelVersion | None, other: ModelVersion | None) -> bool:
    """Whether they have the same number, or neither is there."""
    if one is None or other is None:
        return one is other
    return number_of(one) == number_of(other)


def find_version(client: MlflowClient, candidate: str) -> ModelVersion | None:
    """The version that an earlier registration of the same candidate made, the first of several.

    A server that copies files makes the version before it has them; where that was
    stopped, the version is never ready, and is passed over.
    """
    clause = f"name = '{NAME}' and tags.`{CANDIDATE}` = '{candidate}'"
    found = [version for version in _search(client, clause) if version.status == "READY"]
    return min(found, key=lambda version: int(version.version), default=None)


def version_of_run(client: MlflowClient, run_id: str) -> ModelVersion | None:
    """The newest version that the network of a run became; None where it was not registered."""
    found = [
        version
        for version in _search(client, f"run_id = '{run_id}'")
        if version.name == NAME and version.status == "READY" and CANDIDATE in version.tags
    ]
    newest = max(found, key=lambda version: int(version.version), default=None)
    # A search gives no aliases.
    return newest and client.get_model_version(NAME, str(newest.version))


def mark_read(client: MlflowClient, locked_test: str, weights_sha256: str) -> None:
    """Note that a network is scored on a locked test, both known by their digests.

    It is kept with the model, so that a reading counts whatever becomes of the version.
    """
    if registered_model(client) is None:
        client.create_registered_model(NAME)
    client.set_registered_model_tag(NAME, _read(locked_test) + weights_sha256[:16], "true")


def count_readings(client: MlflowClient, locked_test: str) -> int:
    """How many networks were scored on a locked test; the same one twice counts once."""
    model = registered_model(client)
    return 0 if model is None else sum(tag.startswith(_read(locked_test)) for tag in model.tags)


def _read(locked_test: str) -> str:
    """How the tags begin that the model has for the readings of a locked test."""
    return f"fvc.read.{locked_test[:16]}."


def _search(client: MlflowClient, clause: str) -> list[ModelVersion]:
    page = client.search_model_versions(clause)
    found = list(page)
    while page.token:
        page = client.search_model_versions(clause, page_token=page.token)
        found += page
    return found


@contextmanager
def stored(number: str, name: str = NAME) -> Iterator[Path]:
    """The files that a version was registered with, until the block ends.

    Raises:
        FvcError: The store has lost them.
    """
    with TemporaryDirectory() as scratch:
        try:
            # Not the copy of the code, which is many files.
            uri = f"models:/{name}/{number}/artifacts/network"
            local = mlflow.artifacts.download_artifacts(uri, dst_path=scratch)
        except (MlflowException, OSError) as error:
            raise _lost(number, error) from error
        yield Path(local)


def check_files(number: str) -> None:
    """Make sure that the files of a version are where the registry says.

    Raises:
        FvcError: They are not.
    """
    try:
        found = mlflow.artifacts.list_artifacts(f"models:/{NAME}/{number}/artifacts/network")
    except (MlflowException, OSError) as error:
        raise _lost(number, error) from error
    if not found:
        raise _lost(number, FileNotFoundError("there are none"))


def _lost(number: str, error: Exception) -> FvcError:
    cause = f"its files cannot be read ({' '.join(str(error).split())[:200]})"
    remedy = (
        f"Restore MLflow's artifacts, or delete the version: 'mlflow ui', Model registry, {NAME}"
    )
    return FvcError(f"models:/{NAME}/{number}", cause, remedy)


def make(client: MlflowClient, change: Change) -> None:
    """Move aliases and set tags so that a stop at any moment can be made good.

    A store moves one alias at a time. What is to be is written down first, in one
    step; whoever comes next after a stop, `register` or `rollback`, brings that to
    its end with `finish`, which gives the same result however far it had come. An
    alias is only ever moved, never taken away, so a champion is in service throughout.

    Raises:
        FvcError: A version that is to get an alias was deleted.
    """
    client.set_registered_model_tag(NAME, PENDING, json.dumps(asdict(change)))
    _bring_to_its_end(client, change)


def finish(client: MlflowClient) -> Change | None:
    """Bring a change that was stopped to its end; None where there is none.

    Raises:
        FvcError: A version that is to get an alias was deleted.
    """
    model = registered_model(client)
    pending = None if model is None else model.tags.get(PENDING)
    if pending is None:
        return None
    change = Change(**json.loads(pending))
    _bring_to_its_end(client, change)
    return change


def _bring_to_its_end(client: MlflowClient, change: Change) -> None:
    try:
        for alias, number in change.aliases.items():
            client.set_registered_model_alias(NAME, alias, number)
        for number, tags in change.tags.items():
            for key, value in tags.items():
                client.set_model_version_tag(NAME, number, key, value)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        cause = f"'{change.command}' was stopped, and cannot be finished: {error.message}"
        remedy = f"Delete the tag '{PENDING}' of the model '{NAME}' in 'mlflow ui', run it again"
        raise FvcError(NAME, cause, remedy) from error
    client.delete_registered_model_tag(NAME, PENDING)


def promotion(number: str, champion: ModelVersion | None) -> dict[str, str]:
    """The aliases of a candidate that becomes champion: first the holder gets `previous`."""
    held = None if champion is None else number_of(champion)
    previous = {} if held in (None, number) else {"previous": str(held)}
    return {"challenger": number, **previous, "champion": number}


def rollback(champion: ModelVersion, previous: ModelVersion) -> Change:
    """The change that swaps `champion` and `previous`; made twice, it leaves all as it was.

    The version that leaves service is withdrawn: `register` will not bring it back.
    Where the one that returns had been withdrawn, that is what is undone.
    """
    leaving, returning = number_of(champion), number_of(previous)
    undone = previous.tags.get(WITHDRAWN) == "true"
    tags = {returning: {WITHDRAWN: "false"}} if undone else {leaving: {WITHDRAWN: "true"}}
    # The version that is wanted in service moves first.
    aliases = {"champion": returning, "previous": leaving}
    return Change(command="rollback", aliases=aliases, tags=tags)
