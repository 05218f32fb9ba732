"""The requests of `bucket`: gcsfs, its credentials, and what its errors mean to a user.

    headers, content = bucket_calls.call("gs://b/x", "GET", "b/{}/o/{}", "b", "x")
    with bucket_calls.explained("gs://b/x"): ...          # whatever gcsfs raises becomes an OSError with a line
"""

import errno
import functools
import logging
import os

CONNECT_SECS, READ_SECS = 10, 60  # of one try
CALL_SECS = 90  # of a request with all its tries; gcsfs tries six times, within half a minute where nobody answers


@functools.cache
def client():
    """The file system of gcsfs."""
    import aiohttp
    import gcsfs
    import google.auth
    for logger in ("gcsfs", "google.auth"):
        logging.getLogger(logger).setLevel(logging.CRITICAL + 1)  # what does not work is raised here
    try:
        token, _ = google.auth.default(scopes=["https://www.googleapis.com/auth/devstorage.read_write"])
    except google.auth.exceptions.DefaultCredentialsError:
        token = "anon"
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECS, sock_read=READ_SECS)
    return gcsfs.GCSFileSystem(token=token, requests_timeout=timeout, use_listings_cache=False,
                               session_kwargs={"trust_env": True})


def call(path, method: str, url: str, *parts: str, timeout: float = CALL_SECS, **options) -> tuple[dict, bytes]:
    """Headers and content of the answer to one request about `path`."""
    with explained(path):
        headers, content = client().call(method, url, *parts, timeout=timeout, **options)
        return headers, content


class explained:
    """A context. Makes of what gcsfs and Google's authentication raise an OSError with a line for the user."""

    def __init__(self, path: str | os.PathLike):
        self._path = os.fspath(path)

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind, error, _) -> None:
        if kind is None or not issubclass(kind, Exception):
            return
        number, words, cause = _words(self._path, error)
        raise cause(number, words, self._path) from error


def _words(path: str, error: Exception) -> tuple[int, str, type[OSError]]:
    """The system's number, the words and the type of the OSError for `error`."""
    bucket = path.removeprefix("gs://").split("/")[0]
    code, text = getattr(error, "code", None), " ".join(str(error).split())
    if isinstance(error, FileExistsError):
        return errno.EEXIST, "was written by another process", FileExistsError
    if isinstance(error, FileNotFoundError):
        missing = "/o/" not in str(error)  # the bucket's own address, not an object's
        return errno.ENOENT, (f"there is no bucket {bucket}" if missing else "there is no such object"), FileNotFoundError
    if code == 401 or "Invalid Credentials" in text:
        return errno.EACCES, ("no valid credentials were found; run gcloud auth application-default login, or set "
                              "GOOGLE_APPLICATION_CREDENTIALS"), PermissionError
    if isinstance(error, PermissionError) or text.startswith("Forbidden:") or code == 403:
        return errno.EACCES, f"bucket {bucket} does not permit it ({text.split(' ', 2)[-1][:200]})", PermissionError
    if "GoogleAuthError" in {base.__name__ for base in type(error).__mro__}:
        return errno.EACCES, f"the credentials are refused ({text[:200]})", PermissionError
    if isinstance(error, OSError) and error.strerror and not isinstance(error, ConnectionError | TimeoutError):
        return error.errno or errno.EIO, error.strerror, OSError
    if str(code).startswith("4") and str(code) not in ("408", "429") or isinstance(error, ValueError):
        return errno.EIO, f"the storage service refuses it ({text[:200]})", OSError
    text = "in time; is there a network" if isinstance(error, TimeoutError) else f"({text[:200]})"
    return errno.EHOSTUNREACH, f"the storage service does not answer {text}", ConnectionError
