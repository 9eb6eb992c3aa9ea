"""Files that appear whole or not at all, their checksums, and safe names for them."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import tempfile
import time
import unicodedata
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from situs.errors import SitusError, not_writable, setting
from situs.places import check_local

_PART = ".part"
_STALE_SECONDS = 3600.0

# Names that Windows takes for devices, whatever their suffix.
_DEVICES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{port}{n}" for port in ("com", "lpt") for n in range(10)}
)
_UNSAFE = re.compile(r"[^\w.+=,@() -]")
# File systems end at 255 bytes; what is written beside a file (a journal, a suffix) needs some.
_LONGEST_NAME = 200


@contextmanager
def writing(path: str | Path, suffix: str = "") -> Iterator[Path]:
    """Let the caller write a file that appears whole or not at all.

    The file is written under another name in the same folder, flushed to the disk, and gets its
    name by one renaming, which is flushed too: after a power cut there is the old file or the
    new one. Access rights are those that the user's umask gives to new files.

    Args:
        path: Where the file shall be; its folder is made.
        suffix: What the temporary name must end in for writers that look at it (``".nii.gz"``).

    Yields:
        The path to write to. It exists and is empty.

    Raises:
        OSError: Where the file cannot be written; what was at ``path`` is still there.
    """
    path = Path(path)
    with _temporary(path, suffix) as part:
        wished = part.stat().st_mode
        yield part
        if part.stat().st_mode != wished:  # some writers make a file of their own, for one user
            part.chmod(wished)
        _flush(part)
        part.replace(path)
        _flush_folder(path.parent)


def write_file(path: str | Path, content: str | bytes) -> None:
    """Write text (as UTF-8) or bytes so that the file appears whole or not at all."""
    with writing(path) as part:
        part.write_bytes(_encoded(content))


def write_json(path: str | Path, value: Any, *, indent: int | None = 2) -> None:
    """Write a JSON file so that it appears whole or not at all; ends in a line break."""
    write_file(path, json.dumps(value, indent=indent, allow_nan=True, default=str) + "\n")


def parse_json(content: str | bytes) -> Any:
    """What JSON holds; brackets that stand too deep are an error like any other.

    Raises:
        ValueError: Where it is none.
    """
    try:
        return json.loads(content)
    except RecursionError:
        raise ValueError("brackets stand too deep") from None


def remembered(path: str | Path) -> dict[str, Any]:
    """What a file holds that is made anew where it is absent or damaged."""
    try:
        return read_json(path, "")
    except (FileNotFoundError, SitusError):
        return {}


def read_json(path: str | Path, remedy: str) -> dict[str, Any]:
    """A JSON object that situs wrote.

    Args:
        path: Of the file.
        remedy: What to do where it is damaged.

    Raises:
        FileNotFoundError: Where there is none.
        SitusError: Where it cannot be read or is something else.
    """
    path = Path(path)
    try:
        found = parse_json(path.read_bytes())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise SitusError(f"{path} is damaged (no JSON object); {remedy}")
    return found


def write_files(folder: str | Path, contents: Mapping[str, str | bytes]) -> None:
    """Write files that belong together.

    All of them are on the disk before the first gets its name; they get their names in the order
    given, so the last one can vouch for the others.

    Args:
        folder: Made if absent; other files in it stay.
        contents: By name.
    """
    folder = Path(folder)
    with ExitStack() as stack:
        parts = {}
        for name, content in contents.items():
            parts[name] = stack.enter_context(_temporary(folder / name, ""))
            parts[name].write_bytes(_encoded(content))
            _flush(parts[name])
        for name, part in parts.items():
            part.replace(folder / name)
        _flush_folder(folder)


@contextmanager
def writing_folder(path: str | Path) -> Iterator[Path]:
    """Let the caller fill a folder that appears whole or not at all.

    Args:
        path: Where the folder shall be; a folder that is there gives way once the new one is
            whole, if nothing is lost with it that the new one does not have.

    Yields:
        An empty folder beside it.

    Raises:
        SitusError: If the folder that is there holds something else.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{secrets.token_hex(6)}{_PART}")
    old = part.with_name(part.name + "-old")
    try:
        with naming(path):
            part.mkdir()
            yield part
            for file in part.rglob("*"):
                if file.is_file():
                    _flush(file)
        if path.exists():
            _insist_on_no_other(path, {item.name for item in part.iterdir()})
            path.replace(old)
        part.replace(path)
        _flush_folder(path.parent)
    finally:
        if old.exists() and not path.exists():
            old.replace(path)
        for gone in (part, old):
            shutil.rmtree(gone, ignore_errors=True)


def _insist_on_no_other(folder: Path, names: set[str]) -> None:
    others = sorted({item.name for item in folder.iterdir()} - names)
    if others:
        raise SitusError(
            f"{folder} holds something else ({', '.join(others[:3])}), which would be lost; "
            f"choose another {setting('out')}"
        )


def check_writable(path: str | Path, *, folder: bool, file: str = "") -> None:
    """Refuse a place where nothing could be written, before any work is done for it.

    Nothing is made: a nameless temporary file is tried in the nearest folder that is there.

    Args:
        path: What shall be written.
        folder: Whether it is a folder.
        file: What a file is called where one would do instead of the folder.

    Raises:
        SitusError: Naming what is in the way.
    """
    path = Path(path)
    check_local(path, f"{setting('out')} must be a folder here; 'situs upload' copies a store")
    if folder and path.exists() and not path.is_dir():
        alternative = f", or {file}" if file else ""
        raise SitusError(f"{setting('out')}: {path} is a file; give a folder{alternative}")
    if not folder and path.is_dir():
        raise SitusError(f"{setting('out')}: {path} is a folder; give the name of a file")
    place = path.absolute() if path.is_dir() else path.absolute().parent
    while not place.exists() and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise SitusError(f"{setting('out')}: {path} cannot be made, since {place} is a file")
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        why = error.strerror or "no reason is given"
        raise SitusError(f"{setting('out')}: nothing can be written in {place} ({why})") from None


def keep_file(part: Path, path: Path) -> None:
    """Give a file that was written under a temporary name its own, as :func:`writing` does.

    For writers that choose the temporary name themselves, such as several processes that write
    one file together.
    """
    with writing(path) as own:
        part.replace(own)


def remove_leftovers(folder: str | Path, pattern: str = "") -> None:
    """Delete temporary files that processes left behind when they were killed an hour ago.

    Args:
        folder: Where to look.
        pattern: Of the folders below it to look in, for instance ``"scans/*/"``.
    """
    for part in Path(folder).glob(f"{pattern}.*{_PART}*"):
        with suppress(FileNotFoundError):  # another process may clean as well
            if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                part.unlink()


def sha256(*parts: str | bytes | memoryview, digits: int = 64) -> str:
    """SHA-256 of the parts one after another, texts as UTF-8, in hexadecimal digits."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(_encoded(part) if isinstance(part, str) else part)
    return hashed.hexdigest()[:digits]


def file_sha256(path: str | Path, digits: int = 64) -> str:
    """SHA-256 of a file's content in hexadecimal digits; empty where there is no such file."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:digits]
    except FileNotFoundError:
        return ""


def file_inside(folder: str | Path, name: str, suffix: str = "") -> Path:
    """A path directly inside ``folder`` for a name that came from outside.

    Harmless names stay as they are. In others (with separators, ``..``, control characters, a
    leading dot or dash, device names of Windows, too long, empty) the offending characters
    become ``_`` and a checksum of the whole name follows, so that different names do not
    share a file (on a file system that minds capitals).

    Args:
        folder: The folder, not made.
        name: From a header, a table, a file name, a user.
        suffix: Of the file, ``".nii.gz"``; trusted, kept whole.

    Returns:
        ``folder/…``; whatever ``name`` is, neither ``folder`` itself nor anything elsewhere.
    """
    wanted = unicodedata.normalize("NFC", name)
    safe = _UNSAFE.sub("_", wanted).lstrip(".- ").rstrip(". ")
    if not suffix:  # the name brings its own, which cutting shall not lose
        safe, suffix = _split_suffix(safe)
    room = _LONGEST_NAME - len(suffix.encode())
    if safe + suffix in (name, name + suffix) and len(safe.encode()) <= room and not _device(safe):
        return Path(folder) / (safe + suffix)
    mark = f"-{sha256(name.encode('utf-8', 'surrogatepass').hex(), digits=8)}"
    kept = safe.encode()[: room - len(mark)].decode("utf-8", "ignore")
    return Path(folder) / ((f"_{kept}" if _device(kept) else kept or "_") + mark + suffix)


def _split_suffix(name: str) -> tuple[str, str]:
    found = re.search(r"(?<=.)(\.nii)?\.\w{1,8}$", name)
    return (name[: found.start()], found[0]) if found else (name, "")


def _device(name: str) -> bool:
    return not name or name.split(".", maxsplit=1)[0].strip().lower() in _DEVICES


@contextmanager
def _temporary(path: Path, suffix: str) -> Iterator[Path]:
    part = path.with_name(f".{secrets.token_hex(6)}{_PART}{suffix}")
    try:
        with naming(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # Made by hand, since tempfile lets nobody but the owner read.
            os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
            yield part
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of a disk that takes nothing more name the file, whichever library met them.

    Raises:
        OSError: In place of a library's own error.
    """
    try:
        yield
    except Exception as error:
        if not not_writable(error) or (isinstance(error, OSError) and error.filename == str(path)):
            raise
        known = error.errno if isinstance(error, OSError) else None
        number = errno.ENOSPC if known is None else known
        raise OSError(number, os.strerror(number), str(path)) from error


def _flush(part: Path) -> None:
    with part.open("r+b") as file:
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    with suppress(OSError):  # not everywhere may folders be opened
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _encoded(content: str | bytes) -> bytes:
    return content.encode("utf-8") if isinstance(content, str) else content
