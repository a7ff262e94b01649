"""The app bundles requests; here this does, as far as it is needed."""

import types
import urllib.error
import urllib.request


class ConnectionError(OSError):
    """Nobody answers."""


def get(url, timeout=None):
    """The answer, whatever its status: requests raises for none of them."""
    try:
        answer = urllib.request.urlopen(url, timeout=timeout)
    except urllib.error.HTTPError as error:
        answer = error
    except OSError as error:
        raise ConnectionError(error) from None
    with answer:
        return types.SimpleNamespace(content=answer.read(), status_code=answer.status)
