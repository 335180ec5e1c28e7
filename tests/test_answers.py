import mlflow
import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import PERMISSION_DENIED
from refusals import AWAY, StoreError, http_error
from requests import RequestException

from fvc.tracking.answers import is_for_good, refusal


@pytest.mark.parametrize(
    "error",
    [http_error(400), MlflowException("API request failed with error code 413 != 200.")],
)
def test_what_never_passes_is_known(error: Exception) -> None:
    assert is_for_good(error), "what follows would wait for ever"


@pytest.mark.parametrize(
    "error",
    [
        MlflowException("API request failed with error code 401 != 200."),
        MlflowException("no", PERMISSION_DENIED),
        MlflowException("API request to endpoint / failed with error code 404 != 200."),
        MlflowException("Caused by ResponseError('too many 500 error responses')"),
        MlflowException(AWAY),
        RequestException("Connection aborted"),
        StoreError(),
        OSError(28, "No space left on device"),
    ],
)
def test_what_may_pass_waits(error: Exception) -> None:
    assert not is_for_good(error), "a server that is set right would not get it"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MlflowException("API request failed with error code 401 != 200."), "does not know this"),
        (MlflowException("API request failed with error code 403 != 200."), "refuses this to"),
        (http_error(403), "refuses this to"),
        (MlflowException("error code 403 != 200. Body: 'Invalid Host header"), "called so (403)"),
        (http_error(507), "could not do it (507)"),
        (MlflowException("Caused by ResponseError('too many 500 error responses')"), "(500)"),
        (MlflowException(AWAY), "does not answer"),
    ],
)
def test_a_refusal_is_one_line(error: Exception, said: str) -> None:
    mlflow.set_tracking_uri("http://someone:secret@mlflow.example.org:5000")
    try:
        known = refusal(error)
    finally:
        mlflow.set_tracking_uri("")
    assert known is not None
    line = str(known)
    assert line.startswith("http://mlflow.example.org:5000: ")
    assert said in line
    assert "secret" not in line
    assert "\n" not in line


def test_what_the_server_has_nothing_to_do_with_is_no_refusal() -> None:
    assert refusal(MlflowException("Run 'x' not found")) is None
    assert refusal(ValueError("401")) is None
