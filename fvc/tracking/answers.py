"""What a store answers in place of what was asked for, told in one line."""

import re

import mlflow
from mlflow.exceptions import MlflowException
from requests import RequestException

from fvc.errors import FvcError

STATUS = re.compile(r"error code (\d{3})|too many (\d{3}) error")
"""How MLflow's client words the status of an answer that is no JSON."""

BY_NAME = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}
ABSENT = "RESOURCE_DOES_NOT_EXIST"
FOR_GOOD = {"INVALID_PARAMETER_VALUE", ABSENT}
"""MLflow's names for what it never takes, as of a run that was deleted or is not there."""
FOR_GOOD_STATUS = {400, 413}
"""A request that nobody takes, and one that is too long for a proxy."""
SILENT = ("Max retries exceeded", "timeout exception", "Connection aborted", "Connection refused")

REFUSALS = (MlflowException, RequestException)
"""What MLflow's client raises where a server refuses or does not answer."""


def refusal(error: Exception) -> FvcError | None:
    """The one line for a server that refuses or is away; None for anything else.

    Ours is wrapped around the few errors that have nothing to do with what was asked.
    """
    status, text = _status(error), told(error)
    if status == 401:
        cause = "does not know this user, or the password is another one (401)"
        remedy = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    elif status == 403 and "Invalid Host header" in text:
        cause = "was not told that it is called so (403)"
        remedy = (
            "Have its proxy hand on the Host header, and its --allowed-hosts name it, as in "
            "docs/cluster.md"
        )
    elif status == 403:
        cause = "refuses this to this user (403)"
        remedy = (
            "Ask its administrator for the role of those who train, as in docs/cluster.md: it "
            f"has MANAGE on experiments and registered models ({text[:200]})"
        )
    elif status == 413:
        cause = "has a proxy before it that takes nothing so long (413)"
        remedy = "Have it take files of any length, as in docs/cluster.md"
    elif status is not None and status >= 500:
        cause = f"could not do it ({status})"
        remedy = (
            "See its log: a database or an object store that is away or full, most of the time; "
            "then run this again"
        )
    elif _is_silent(error):
        cause = "does not answer"
        remedy = f"Start it, or correct MLFLOW_TRACKING_URI, then run this again ({text[-200:]})"
    else:
        return None
    return FvcError(store_name(), cause, remedy)


def reason(error: Exception) -> str:
    """Why the store took nothing, in a few words."""
    known = refusal(error)
    if known:
        return f"{known.args[0]} {known.args[1]}"
    said = told(error)[:200]
    return said if isinstance(error, REFUSALS) else f"{type(error).__name__}: {said}"


def is_away(error: Exception) -> bool:
    """Whether nobody answers, or none but a proxy or a server that cannot do it now."""
    return _is_silent(error) or (_status(error) or 0) >= 500


def is_absent(error: Exception) -> bool:
    """Whether the store has nothing of that name."""
    return isinstance(error, MlflowException) and error.error_code == ABSENT


def is_for_good(error: Exception) -> bool:
    """Whether the same call would be refused at any time, whoever makes it."""
    named = isinstance(error, MlflowException) and error.error_code in FOR_GOOD
    return named or _status(error) in FOR_GOOD_STATUS


def store_name() -> str:
    """The address of the store, as it may be shown."""
    return without_passwords(mlflow.get_tracking_uri())


def without_passwords(text: str) -> str:
    """A text without the names and passwords in its addresses."""
    return re.sub(r"//[^/?#\s]*@", "//", text)


def told(error: Exception) -> str:
    """What an error says, in one line and without passwords."""
    return without_passwords(" ".join(str(error).split()))


def _is_silent(error: Exception) -> bool:
    return isinstance(error, REFUSALS) and any(words in str(error) for words in SILENT)


def _status(error: Exception) -> int | None:
    if isinstance(error, RequestException):
        return None if error.response is None else error.response.status_code
    if not isinstance(error, MlflowException):
        return None
    if error.error_code in BY_NAME:
        return BY_NAME[error.error_code]
    found = STATUS.search(str(error))
    return int(found[1] or found[2]) if found else None
