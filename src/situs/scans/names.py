r"""File names that can be written and printed anywhere, and turned back into what is on disk.

A name is bytes to a POSIX system: one from an old archive need not be UTF-8, and any may hold
control characters. Python reads foreign bytes as lone surrogates, which no UTF-8 file, JSON
document or terminal takes. Catalogs, stores and tables therefore hold names in which these are
spelt out, ``caf\udce9.nii``; all other names stay as they are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

# Controls and surrogates; and a backslash that would read as the beginning of a spelt-out one.
_SPECIAL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]|\\(?=u[0-9a-f]{4})")
_SPELT = re.compile(r"\\u([0-9a-f]{4})")
_CHANNEL = re.compile(r"(.+)_(\d{4})$")

# A subject of BIDS.
SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")


def escaped(name: str) -> str:
    r"""A file's name or path as text that is valid UTF-8 and safe to print.

    Examples:
        >>> escaped("caf\udce9.nii")
        'caf\\udce9.nii'
    """
    return _SPECIAL.sub(lambda found: f"\\u{ord(found[0]):04x}", name)


def unescaped(text: str) -> str:
    """The name on disk; undoes :func:`escaped`."""
    return _SPELT.sub(lambda found: chr(int(found[1], 16)), text)


def is_utf8(name: str) -> bool:
    """Whether a name holds no surrogates."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def channel_of(stem: str) -> tuple[str, int] | None:
    """Case and channel from a name of nnU-Net, ``case_0000``; None for any other name."""
    match = _CHANNEL.match(stem)
    return None if match is None else (match.group(1), int(match.group(2)))


def patient_in_name(pattern: str | re.Pattern[str], name: str) -> str:
    """The patient that a name tells of; empty where it tells of none.

    Args:
        pattern: Regular expression, searched for in the name.
        name: Of a case, or the path of a scan.

    Returns:
        The first group that took part and is not empty, or the whole match.
    """
    found = re.search(pattern, name)
    return next((group for group in found.groups() if group), found.group()) if found else ""


def walk(
    top: Path, enter: Callable[[Path], bool] = lambda folder: True
) -> Iterator[tuple[Path, list[str]]]:
    """Folders below ``top`` in a stable order, each once, with the names of their files.

    Links to folders are followed, as collections are often made of them; a folder that was
    walked already, under whatever name, is not walked again, so that links may form loops.

    Args:
        top: Where to begin.
        enter: Whether to go into a folder.

    Yields:
        A folder, and the names of its files.
    """
    seen: set[tuple[int, int]] = set()
    for here, below, names in os.walk(top, followlinks=True):
        folder = Path(here)
        try:
            status = folder.stat()
        except OSError:
            below.clear()
            continue
        if (status.st_dev, status.st_ino) in seen:
            below.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        below[:] = sorted(name for name in below if enter(folder / name))
        yield folder, sorted(names)
