"""Classes that tell left from right: a mirrored scan would teach the wrong one.

Exchanging the labels of a pair would not do: a mirrored left ventricle or lung is no right one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from situs.errors import ConfigError
from situs.transfer.config import Augmentation

_WORDS = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\d+")
_SIDES = {"left", "right", "lh", "rh"}
_OTHER = {"l": "r", "r": "l", "lt": "rt", "rt": "lt"}
"""Short words that are sides only where another class has the opposite one."""


def sided(names: Iterable[str]) -> list[str]:
    """Names of classes that are on one side: "left kidney", "Kidney_L" beside "Kidney_R"."""
    words = {name: tuple(w.lower() for w in _WORDS.findall(name)) for name in names}
    known = set(words.values())

    def opposites(own: tuple[str, ...]) -> Iterable[tuple[str, ...]]:
        return ((*own[:i], _OTHER[w], *own[i + 1 :]) for i, w in enumerate(own) if w in _OTHER)

    return [
        name
        for name, own in words.items()
        if _SIDES & set(own) or any(other in known for other in opposites(own))
    ]


def with_flips(augmentation: Augmentation, names: Iterable[str]) -> Augmentation:
    """Settle ``flip_axes``: left-right by default, nothing where a class has a side.

    Raises:
        ConfigError: If left-right flips are asked for and a class has a side.
    """
    lateral = sided(names)
    if augmentation.flip_axes is None:
        return augmentation.model_copy(update={"flip_axes": () if lateral else (0,)})
    if lateral and 0 in augmentation.flip_axes:
        raise ConfigError(
            f"'augmentation.flip_axes' has 0 (left-right), but {said(lateral)}: a mirrored scan "
            "would teach the wrong side; leave 0 out"
        )
    return augmentation


def said(lateral: list[str]) -> str:
    """Which classes have a side, in words."""
    shown = ", ".join(f"'{name}'" for name in lateral[:3]) + (", …" if len(lateral) > 3 else "")
    return f"{len(lateral)} class{'es have' if len(lateral) > 1 else ' has'} a side ({shown})"
