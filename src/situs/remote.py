"""Object storage and other places that fsspec reads: bytes of a store that lies there."""

from __future__ import annotations

import hashlib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from situs.errors import NotWritten, SitusError, not_writable, require

_WAITS_S = (0.5, 2.0, 8.0)
"""Between tries; what a provider's own client tries again comes on top."""

_PIECE = 2**22
_QUERY = re.compile(r"\?[^\s'\"<>)]+")
_FINAL = (FileNotFoundError, PermissionError, NotImplementedError, ImportError)
# Classes and bases of botocore and Google's library, which only who reads from there has.
_NO_CREDENTIALS = {
    *("NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"),
    *("CredentialRetrievalError", "UnknownCredentialError", "DefaultCredentialsError"),
    *("SSOError", "LoginError", "TokenRetrievalError", "InvalidConfigError", "ConfigParseError"),
}
_CREDENTIALS = (
    "credentials are those of the provider's own tools (environment or configuration file)"
)
_S3_CREDENTIALS = (
    "name a profile of ~/.aws in AWS_PROFILE, after 'aws sso login' where it is one of a single "
    "sign-on, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; a public bucket is read without "
    "any where FSSPEC_S3_ANON=true is set"
)

T = TypeVar("T")


class Unreachable(SitusError):
    """A place that did not answer, or refused; says nothing about what lies there."""


@dataclass(frozen=True)
class Remote:
    """A folder behind a URL. Picklable; each process makes connections of its own.

    Attributes:
        url: Of the folder, without a slash at its end.
    """

    url: str

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            FileNotFoundError: If there is none.
            Unreachable: If the place does not answer.
        """
        fs, root = self.system()
        content: bytes = self._tried(lambda: fs.cat_file(f"{root}/{name}"))
        return content

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes from ``start`` to before ``end`` for each range, asked for at once.

        Raises:
            FileNotFoundError: If there is no such file.
            Unreachable: If the place does not answer.
        """
        fs, root = self.system()
        starts, ends = [a for a, _ in ranges], [b for _, b in ranges]
        paths = [f"{root}/{name}"] * len(ranges)

        def ask() -> list[Any]:
            found = fs.cat_ranges(paths, starts, ends)
            for part in found:
                if isinstance(part, BaseException):
                    raise part
            return list(found)

        found = self._tried(ask)
        # A plain web server gives the whole file, whatever is asked for.
        return [
            bytes(part if len(part) <= b - a else part[a:b])
            for part, (a, b) in zip(found, ranges, strict=True)
        ]

    def sha256(self, name: str) -> str:
        """Of a file's content, read piece by piece; empty where there is no such file.

        Raises:
            Unreachable: If the place does not answer.
        """
        fs, root = self.system()

        def digest() -> str:
            hashed = hashlib.sha256()
            with fs.open(f"{root}/{name}", "rb", cache_type="readahead") as file:
                while content := file.read(_PIECE):
                    hashed.update(content)
            return hashed.hexdigest()

        try:
            return self._tried(digest)
        except FileNotFoundError:
            return ""

    def sizes(self, folder: str) -> dict[str, int]:
        """Bytes of every file below a folder, by its name from the top.

        Raises:
            Unreachable: If the place does not answer.
        """
        fs, root = self.system()
        fs.invalidate_cache()
        try:
            found = self._tried(lambda: fs.find(f"{root}/{folder}", detail=True))
        except FileNotFoundError:
            return {}
        # A plain web server need not say how large a file is.
        return {path[len(root) + 1 :]: int(info["size"] or 0) for path, info in found.items()}

    def size(self, name: str) -> int | None:
        """Bytes of a file, 0 where the place does not say; None where there is none.

        Raises:
            Unreachable: If the place does not answer.
        """
        fs, root = self.system()
        try:
            return int(self._tried(lambda: fs.info(f"{root}/{name}"))["size"] or 0)
        except FileNotFoundError:
            return None

    def names(self) -> list[str]:
        """What lies directly in the folder.

        Raises:
            Unreachable: If the place does not answer.
        """
        fs, root = self.system()
        fs.invalidate_cache()
        try:
            return [p.rsplit("/", 1)[-1] for p in self._tried(lambda: fs.ls(root, detail=False))]
        except FileNotFoundError:
            return []

    def write(self, name: str, content: bytes) -> None:
        """Write a small file.

        Raises:
            Unreachable: If the place does not take it.
        """
        fs, root = self.system()
        self._tried(lambda: _make_folder(fs, f"{root}/{name}"), missing=False)
        self._tried(lambda: fs.pipe_file(f"{root}/{name}", content), missing=False)

    def get(self, name: str, file: Path) -> None:
        """Copy a file to this machine.

        Raises:
            FileNotFoundError: If there is none.
            NotWritten: If the disk here is full.
            Unreachable: If the place does not answer.
        """
        fs, root = self.system()

        def copy() -> None:
            try:
                fs.get_file(f"{root}/{name}", str(file))
            except OSError as error:
                if not_writable(error):
                    raise NotWritten(f"cannot write to {file.parent}: {error.strerror}") from None
                raise

        self._tried(copy)

    def put(self, name: str, file: str) -> None:
        """Copy a file of this machine there.

        Raises:
            Unreachable: If the place does not take it.
        """
        fs, root = self.system()
        self._tried(lambda: _make_folder(fs, f"{root}/{name}"), missing=False)
        self._tried(lambda: fs.put_file(file, f"{root}/{name}"), missing=False)

    def system(self) -> tuple[Any, str]:
        """The file system of this process, and the folder's path in it."""
        # By process: connections do not survive a fork.
        return _system(self.url, os.getpid())

    def _tried(self, do: Callable[[], T], missing: bool = True) -> T:
        for wait in (*_WAITS_S, None):
            try:
                return do()
            except _FINAL as error:
                if missing and isinstance(error, FileNotFoundError):
                    raise
                refused = isinstance(error, PermissionError)
                what = self._credentials("access was refused", error) if refused else _why(error)
                raise Unreachable(f"{self.url} cannot be used: {what}") from None
            except NotWritten:
                raise
            except Exception as error:
                # Each provider has errors of its own, without a common base.
                if not _NO_CREDENTIALS.isdisjoint(kind.__name__ for kind in type(error).__mro__):
                    what = self._credentials("no usable credentials", error)
                    raise Unreachable(f"{self.url} cannot be used: {what}") from None
                if wait is None:
                    tries = len(_WAITS_S) + 1
                    raise Unreachable(
                        f"{self.url} cannot be reached ({tries} tries): {_why(error)}; see whether "
                        f"the network is there and {self._address()} is right"
                    ) from None
                time.sleep(wait)
        raise AssertionError  # not reached

    def _credentials(self, what: str, error: BaseException) -> str:
        """What is wrong with them, and where they are given."""
        where = _S3_CREDENTIALS if self._on_s3() else _CREDENTIALS
        return f"{what} ({_said(error)}); {where}"

    def _address(self) -> str:
        return "AWS_ENDPOINT_URL, if it is set," if self._on_s3() else "the URL"

    def _on_s3(self) -> bool:
        return urlsplit(self.url).scheme in ("s3", "s3a")


def remote(url: str) -> Remote:
    """The folder behind a URL, where fsspec knows how to read it.

    Raises:
        SitusError: If a package is missing, the scheme is unknown, or a password stands in it.
    """
    require("fsspec", "remote")
    parts = urlsplit(url)
    if parts.password or parts.query or parts.fragment:
        what = "a password" if parts.password else "a query, which may be a key to it,"
        raise SitusError(
            f"the URL holds {what} and runs and catalogs would keep it; give credentials as the "
            "provider's own tools take them (environment or configuration file)"
        )
    place = Remote(url)
    try:
        place.system()
    except (ImportError, ValueError) as error:
        raise SitusError(
            f"{url} cannot be read: {error}. S3 comes with pip install 'situs[remote]', Google "
            "Cloud with gcsfs, Azure with adlfs"
        ) from None
    return place


@lru_cache(maxsize=8)
def _system(url: str, process: int) -> tuple[Any, str]:
    import fsspec.core  # noqa: PLC0415 - an extra, and a tenth of a second

    fs, root = fsspec.core.url_to_fs(url)
    return fs, root.rstrip("/")


def _make_folder(fs: Any, path: str) -> None:
    """Make the folder of a file where there are folders.

    Object stores, whose file systems are asynchronous, have none: there this would make a bucket
    out of a mistyped name.
    """
    if not fs.async_impl:
        fs.makedirs(fs._parent(path), exist_ok=True)


def _why(error: BaseException) -> str:
    said = _said(error)
    if " " in said:  # a sentence
        return said
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def _said(error: BaseException) -> str:
    # A server may have sent us on to a signed URL.
    return _QUERY.sub("?…", " ".join(str(error).split())).rstrip(".")
