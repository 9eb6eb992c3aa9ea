"""Short ids in place of the names of files, folders and cases, on what may be passed on.

A hospital's folders are called after patients. Pages and tables that leave the machine therefore
say ``1f0c9a3e`` where the file system says ``Smith_Anna/1961.nii.gz``; which is which stands in one
file that stays, ``names.csv`` (:meth:`Names.save`). Ids are stable: the same name has the same id
on every page, and a scan of a store the beginning of its key.
"""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import Any

from situs.scans.privacy import digest
from situs.tables import read_csv, write_csv

MAPPING = "names.csv"
_DIGITS = 8
_WORD = re.compile(r"[\w-]+")
_REMEDY = "delete it; it is written again with the next page"


def alias(name: str) -> str:
    """The short id of a name: eight hexadecimal digits of its (salted) hash.

    Who has a guess at the name can test it, unless ``SITUS_HASH_SALT`` is set.

    Examples:
        >>> alias("Smith_Anna") == alias("Smith_Anna") != alias("Smith_Ann")
        True
    """
    return digest("name", name)[:_DIGITS]


class Names:
    """What a page calls scans and cases: short ids, or their names where that was asked for.

    Args:
        shown: Show the names.
    """

    def __init__(self, *, shown: bool = False) -> None:
        self.shown = shown
        self._ids: dict[str, str] = {}  # name → id
        self._keys: dict[str, str] = {}  # key → name

    def add(self, name: str, key: str = "") -> None:
        """Make a name known.

        Args:
            name: Of a case, or a path relative to its collection.
            key: Of the scan in a store, which observations name it by.
        """
        self._ids.setdefault(name, key[:_DIGITS] or alias(name))
        if key:
            self._keys[key] = name
        self.__dict__.pop("_cases", None)

    def of(self, known: str) -> str:
        """What is shown for a name, or for the key of one."""
        name = self._keys.get(known, known)
        return name if self.shown else self._ids.get(name, name)

    def called(self, name: str) -> str:
        """What is shown for a name that need not be known."""
        return name if self.shown else self._ids.get(name) or alias(name)

    def within(self, text: str) -> str:
        """A text in which keys of scans, and names after the word "case", give way to :meth:`of`.

        Only these: a scan may be called ``image``, and a case ``12``.
        """
        if self._cases is not None:
            text = self._cases.sub(lambda found: found[1] + self.of(found[2]), text)
        return _WORD.sub(
            lambda found: self.of(found[0]) if found[0] in self._keys else found[0], text
        )

    def inside(self, value: Any) -> Any:
        """A nested value in which every text that is a known name gives way to :meth:`of`."""
        if isinstance(value, str):
            return self.of(value) if value in self._ids else self.within(value)
        if isinstance(value, dict):
            return {name: self.inside(item) for name, item in value.items()}
        return [self.inside(item) for item in value] if isinstance(value, list | tuple) else value

    def save(self, folder: Path) -> None:
        """Add to the folder's ``names.csv``: which id is which name. It stays on this machine.

        A folder in which nothing can be written, such as an archive, gets none.
        """
        if self.shown or not self._ids:
            return
        file = folder / MAPPING
        try:
            before = read_csv(file, _REMEDY, "id") if file.is_file() else []
            known = {row["name"]: row["id"] for row in before}
            rows = known | self._ids
            if rows != known:
                write_csv(file, [{"id": i, "name": n} for n, i in rows.items()], ["id", "name"])
        except PermissionError:
            return

    @cached_property
    def _cases(self) -> re.Pattern[str] | None:
        """Finds a name behind the word "case"; the longest first, as one may begin another."""
        known = sorted(filter(None, self._ids), key=len, reverse=True)
        either = "|".join(map(re.escape, known))
        return re.compile(rf"\b(case )({either})(?![\w-])") if known else None
