"""Finds the weights with a given name: a path, weights/, the user's cache, and for the published five the authors'
site.

A download is not trusted: it uses https alone, its size is bounded, its hash is compared with the published one, and it
is converted in a child process with limited time and memory. Our own HDF5 then enters the cache by a rename, so that no
other process ever sees an incomplete file.
"""

import contextlib
import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .. import cache
from ..errors import CheckpointError
from .loading import convert

AUTHORS = "https://dl.fbaipublicfiles.com/LeViT/"
# The suffix is the beginning of the file's SHA-256.
PUBLISHED = {
    "levit_128s.h5": "LeViT-128S-96703c44.pth",
    "levit_128.h5": "LeViT-128-b88c2750.pth",
    "levit_192.h5": "LeViT-192-92712e41.pth",
    "levit_256.h5": "LeViT-256-13b5763e.pth",
    "levit_384.h5": "LeViT-384-9bdaf2e2.pth",
}
_LARGEST = 256 << 20  # bytes; LeViT-384 takes 160 MB
_PATIENCE = 30  # seconds to wait without receiving a byte
_BLOCK = 1 << 18


@contextlib.contextmanager
def located(name: str | os.PathLike) -> Iterator[str]:
    """A context manager: the path of the weights called `name`, valid inside the `with` block.

    An existing path is returned as it is. Otherwise a bare file name is looked for in ./weights, among the weights that
    ship with the package and in the user's cache; one of PUBLISHED is then downloaded, converted and kept in the cache
    (or not kept, with a warning, if the cache cannot be written). Raises CheckpointError if there is no such file; if
    the download failed, the message says what to fetch and how to convert it by hand.
    """
    given = os.fsdecode(name)
    if not given:  # an unset shell variable, say; it would match the folder of weights itself
        raise CheckpointError("expected the path or the name of a weight file, found an empty text")
    candidates = _candidates(given)
    path = next(filter(os.path.exists, candidates), None)
    if path or len(candidates) == 1:
        yield path or given
    elif given in PUBLISHED:
        with _writable_cache() as directory:
            yield _fetched(given, directory)
    else:
        raise CheckpointError(f"{given}: expected a weight file, found none here, in weights or in "
                              f"{cache.directory()}; those that are downloaded are {', '.join(PUBLISHED)}")


def _candidates(given: str) -> list[str]:
    if given != os.path.basename(given):
        return [given]
    package = Path(__file__).resolve().parent.parent
    folders = ("", "weights", package / "weights", package.parent / "weights", cache.directory())
    return [os.path.join(folder, given) for folder in folders]


@contextlib.contextmanager
def _writable_cache() -> Iterator[str]:
    """The cache folder or, with a warning, a temporary folder if it cannot be written."""
    directory = cache.directory()
    try:
        cache.make()
        # Only writing reveals a full or read-only disk.
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        warnings.warn(f"{directory}: {error.strerror}: the downloaded weights will not be kept", stacklevel=6)
    else:
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="levit_np-") as directory:
        yield directory


def _fetched(name: str, directory: str) -> str:
    """Downloads and converts the published file of `name` into `directory`."""
    import http.client
    import urllib.error

    theirs, target = PUBLISHED[name], os.path.join(directory, name)
    url = AUTHORS + theirs
    with tempfile.TemporaryDirectory(prefix=".levit_np-", dir=directory) as folder:
        path = os.path.join(folder, theirs)
        try:
            with open(path, "wb") as file:
                found = _download(url, file)
        except (OSError, http.client.HTTPException) as error:
            reason = " ".join(str(getattr(error, "reason", error)).split()) or type(error).__name__
            if isinstance(error, urllib.error.HTTPError):
                reason = str(error)
                error.close()
            raise CheckpointError(f"{name}: could not be downloaded ({reason:.200}): fetch {url} and run "
                                  f"levit-np convert {theirs} {name}") from None
        expected = theirs.removesuffix(".pth").rpartition("-")[2]
        if not found.startswith(expected):
            raise CheckpointError(f"{url}: expected a file whose SHA-256 begins {expected}, found {found}")
        convert(path, target)
    return target


def _download(url: str, file: BinaryIO) -> str:
    """Downloads `url` into `file` and returns its SHA-256. Raises OSError or HTTPException."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
               TimeRemainingColumn())
    digest, received = hashlib.sha256(), 0
    with _opened(url) as response, Progress(*columns, console=console, redirect_stdout=False) as bar:
        length = response.length  # None where the server does not say
        if length is not None and length > _LARGEST:
            raise OSError(f"expected at most {_LARGEST} bytes, found {length}")
        task = bar.add_task(os.path.basename(url), total=length)
        while block := response.read(_BLOCK):
            received += len(block)
            if received > _LARGEST:
                raise OSError(f"expected at most {_LARGEST} bytes, found more")
            file.write(block)
            digest.update(block)
            bar.update(task, advance=len(block))
    if length is not None and received != length:
        raise OSError(f"expected {length} bytes, the connection ended after {received}")
    return digest.hexdigest()


def _opened(url: str):
    """The response of `url`, which must stay on https through every redirection."""
    import urllib.error
    import urllib.request

    class HttpsAlone(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, request, file, code, message, headers, new):
            if not new.startswith("https://"):
                words = f"expected https, was redirected to {new}"
                raise urllib.error.HTTPError(request.full_url, code, words, headers, file)
            return super().redirect_request(request, file, code, message, headers, new)

    return urllib.request.build_opener(HttpsAlone).open(url, timeout=_PATIENCE)
