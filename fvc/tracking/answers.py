"""What a store answers in place of what was asked for, told in one line."""

import re

import mlflow
from mlflow.exceptions import MlflowException
from requests import RequestException

from fvc.errors import FvcError

STATUS = re.compile(r"error code (\d{3})|too many (\d{3}) error")
"""How MLflow's client words the status of an answer that is no JSON."""

BY_NAME = {"UNAUTHENTICATED": 401, "PERMISSION_DENIED": 403}
SILENT = ("Max retries exceeded", "timeout exception", "Connection aborted", "Connection refused")

REFUSALS = (MlflowException, RequestException)
"""What MLflow's client raises where a server refuses or does not answer."""


def refusal(error: Exception) -> FvcError | None:
    """The one line for a server that refuses or is away; None for anything else.

    Ours is wrapped around the few errors that have nothing to do with what was asked.
    """
    status, text = _status(error), " ".join(str(error).split())
    if status == 401:
        cause = "does not know this user, or the password is another one (401)"
        remedy = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
    elif status == 403:
        cause = "refuses this to this user (403)"
        remedy = (
            "Ask its administrator for the role of those who train, as in docs/cluster.md: it "
            f"has MANAGE on experiments and registered models ({text[:200]})"
        )
    elif status is not None and status >= 500:
        cause = f"could not do it ({status})"
        remedy = (
            "See its log: a database or an object store that is away or full, most of the time; "
            "then run this again"
        )
    elif isinstance(error, REFUSALS) and any(words in text for words in SILENT):
        cause = "does not answer"
        remedy = f"Start it, or correct MLFLOW_TRACKING_URI, then run this again ({text[-200:]})"
    else:
        return None
    return FvcError(_without_password(mlflow.get_tracking_uri()), cause, remedy)


def reason(error: Exception) -> str:
    """Why the store took nothing, in a few words."""
    known = refusal(error)
    return f"{known.args[0]} {known.args[1]}" if known else " ".join(str(error).split())[:200]


def _status(error: Exception) -> int | None:
    if isinstance(error, RequestException):
        return None if error.response is None else error.response.status_code
    if not isinstance(error, MlflowException):
        return None
    if error.error_code in BY_NAME:
        return BY_NAME[error.error_code]
    found = STATUS.search(str(error))
    return int(found[1] or found[2]) if found else None


def _without_password(address: str) -> str:
    return re.sub("//[^/]*@", "//", address)
