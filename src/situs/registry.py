"""What users choose by name: methods, backbones, readers, layouts, export targets.

A name is one of situs's own, one that an installed package declares as an entry point (group
``situs.methods``, ``situs.backbones``, ``situs.readers``, ``situs.layouts`` or
``situs.export``), or ``package.module:Name`` for code that is in no package.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from situs.config import unknown_name
from situs.errors import ConfigError

_CODE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Registry:
    """The names of one kind of thing, each loaded when it is asked for.

    Args:
        kind: What it is, for errors: ``"method"``.
        group: Entry points of other packages.
        own: Name → ``module`` or ``module:attribute`` of situs.
        base: Class that a loaded class must derive from, or the attributes that a module or
            object must have.
        short: Names that settings replace by others before anything is loaded; errors list them.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        own: Mapping[str, str],
        base: type | tuple[str, ...],
        short: Collection[str] = (),
    ) -> None:
        self.kind = kind
        self._short = short
        self._group = group
        self._own = dict(own)
        self._base = base

    def names(self) -> list[str]:
        """All names: situs's own in their order, then those of other packages."""
        return [*self._own, *self._others()]

    def load(self, name: str, *, trusted: bool = True) -> Any:
        """What ``name`` stands for.

        Args:
            name: One of :meth:`names`, or ``package.module:Name``. A module is looked for where
                Python does, then in the working folder.
            trusted: Whether the user of this process wrote the name. One that merely stands in a
                file, a card for instance, may name code only if its module is imported already.

        Raises:
            ConfigError: If the name is unknown (lists the known ones), or what it stands for
                cannot be imported or is of another kind.
        """
        if name in self._own:
            module, _, attribute = self._own[name].partition(":")
            found = import_module(module)
            return getattr(found, attribute) if attribute else found
        if point := self._others().get(name):
            return self._checked(name, self._loaded(name, point))
        if not _CODE.fullmatch(name):
            raise unknown_name(
                self.kind, name, [*self.names(), *self._short, "package.module:Name"]
            )
        return self._checked(name, self._imported(name, trusted))

    def accepts(self, name: str) -> bool:
        """Whether ``name`` is known, or says where its code is."""
        return name in self.names() or bool(_CODE.fullmatch(name))

    def _others(self) -> dict[str, EntryPoint]:
        found = _declared(self._group, _folders())
        return {name: found[name] for name in sorted(found) if name not in self._own}

    def _loaded(self, name: str, point: EntryPoint) -> Any:
        try:
            return point.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"{self.kind} '{name}' of the installed package "
                f"'{point.dist.name if point.dist else point.module}' cannot be imported: {error}"
            ) from error

    def _imported(self, name: str, trusted: bool) -> Any:
        module, _, attribute = name.partition(":")
        if not trusted and module not in sys.modules:
            raise ConfigError(
                f"{self.kind} '{name}' is code outside situs that a file only names. If you trust "
                f"it, import it first: 'import {module}', or 'situs --import {module} …'"
            )
        return getattr_of(import_code(module), attribute, f"{self.kind} '{name}'")

    def _checked(self, name: str, found: Any) -> Any:
        if isinstance(self._base, tuple):
            lacking = [wanted for wanted in self._base if not hasattr(found, wanted)]
            wanted = f"has no {', '.join(lacking)}" if lacking else ""
        else:
            right = isinstance(found, type) and issubclass(found, self._base)
            wanted = "" if right else f"is no subclass of {_full_name(self._base)}"
        if wanted:
            raise ConfigError(f"'{name}' cannot be used as {self.kind}: it {wanted}")
        return found


def import_code(module: str) -> Any:
    """Import a module of the user's, from the working folder if it is nowhere else.

    Raises:
        ConfigError: If there is none, or it fails to import.
    """
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last, so that it hides nothing; loader processes need it, too
    try:
        return import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"module '{module}' cannot be imported: {error}. Install its package, or call situs "
            "in the folder that holds it."
        ) from error


def getattr_of(module: Any, attribute: str, what: str) -> Any:
    """An attribute of a module, or an error that lists what is there.

    Raises:
        ConfigError: If there is none of that name.
    """
    if not hasattr(module, attribute):
        known = [name for name in vars(module) if not name.startswith("_")]
        raise ConfigError(f"{what}: {unknown_name('name', attribute, known)}")
    return getattr(module, attribute)


def _folders() -> tuple[tuple[str, int], ...]:
    """Where packages lie, and when one was last put there or taken away."""
    found = []
    for place in sys.path:
        with suppress(OSError):
            found.append((place, os.stat(place or os.curdir).st_mtime_ns))
    return tuple(found)


@lru_cache(maxsize=32)
def _declared(group: str, folders: tuple[tuple[str, int], ...]) -> dict[str, EntryPoint]:
    """Entry points of a group, looked for anew (6 ms) once ``folders`` are others.

    A package may be installed while a notebook runs; a study asks ten thousand times.
    """
    return {point.name: point for point in entry_points(group=group)}


def _full_name(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"
