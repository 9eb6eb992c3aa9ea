"""What a path is that was given where something else is wanted: said in one place."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

_ARCHIVE = re.compile(r"\.(zip|tar|tgz|tbz2?|txz|7z|rar|tar\.(gz|bz2|xz|zst))$", re.I)

# The file that vouches for what situs made, what it must hold, and what that is.
_MARKS: tuple[tuple[str, str, str], ...] = (
    ("store.json", "rules", "a store of 'situs prepare'"),
    ("run.json", "situs_version", "a run of 'situs pretrain'"),
    ("result.json", "init", "a result of 'situs finetune'"),
    ("begun.json", "split", "an unfinished result of 'situs finetune'"),
)


def made(folder: Path) -> str:
    """What situs made in a folder, in words; empty where it made nothing there."""
    for name, holds, what in _MARKS:
        file = folder / name
        # Not Path.is_file, which ends at a folder that nobody else may look into.
        if os.path.isfile(file) and _holds(file, holds):
            return what
    return ""


def is_archive(path: Path) -> bool:
    """Whether the name is that of an archive of other files."""
    return bool(_ARCHIVE.search(path.name))


def beside_the_point(path: str | Path) -> str:
    """What a path is instead, as the end of a sentence: ``"; it is a store of …"``, or nothing."""
    path = Path(path)
    if path.is_file() and is_archive(path):
        return "; it is an archive: unpack it, and give the folder"
    what = made(path)
    return f"; it is {what}" if what else ""


def _holds(file: Path, key: str) -> bool:
    """Whether a JSON file has an entry; its name alone may be anybody's."""
    try:
        found = json.loads(file.read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and key in found
