"""What a store may answer in place of doing what was asked."""

from requests import HTTPError, Response

AWAY = "API request to http://me:secret@store/ failed with Max retries exceeded (refused)"


def http_error(status: int, url: str = "") -> HTTPError:
    response = Response()
    response.status_code = status
    return HTTPError(f"{status} for url{url and f': {url}'}", response=response)


class StoreError(Exception):
    """Of a store's own library, which has nothing of MLflow's."""
