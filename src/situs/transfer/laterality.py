"""Data and pretext tasks that tell left from right: a mirrored scan would teach the wrong one.

Exchanging the labels of a pair would not do: a mirrored left ventricle or lung is no right one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from situs.errors import ConfigError
from situs.methods import available, method_class
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


def positional(method: str) -> list[str]:
    """Parts of a pretext task, as a card names it, that tell one side of the body from the other.

    A method that this version does not know says nothing.
    """
    known = [name for name in method.split("+") if name in available()]
    return [name for name in known if method_class(name).uses_position]


def with_flips(
    augmentation: Augmentation, classes: Iterable[str], cases: Iterable[str], method: str
) -> tuple[Augmentation, str]:
    """Settle ``flip_axes``, and say why.

    By default left-right, and nothing where a class or a scan has a side, or where the pretext
    task used position: what it taught about sides would be unlearned.

    Args:
        augmentation: What was asked for.
        classes: Names of classes.
        cases: Names of cases.
        method: Pretext task of the weights, as their card names it; ``"none"`` from scratch.

    Raises:
        ConfigError: If left-right flips are asked for and a class has a side.
    """
    lateral = sided(classes)
    if augmentation.flip_axes != "auto":
        if lateral and 0 in augmentation.flip_axes:
            raise ConfigError(
                f"'augmentation.flip_axes' has 0 (left-right), but {said(lateral)}: a mirrored "
                "scan would teach the wrong side; leave 0 out"
            )
        axes = ", ".join(["left-right", "front-back", "up-down"][a] for a in augmentation.flips)
        return augmentation, f"flips: {axes or 'none'} (augmentation.flip_axes)"
    reason = ""
    if lateral:
        reason = said(lateral)
    elif one_sided := sided(cases):
        reason = said(one_sided, "case", "cases")
    elif used := positional(method):
        reason = f"the pretext task ('{', '.join(used)}') used position"
    settled = augmentation.model_copy(update={"flip_axes": () if reason else (0,)})
    if reason:
        return settled, f"no left-right flips: {reason} (augmentation.flip_axes=[0] asks for them)"
    return settled, "left-right flips: no class, case or pretext task has a side"


def said(lateral: list[str], one: str = "class", several: str = "classes") -> str:
    """Which names have a side, in words."""
    shown = ", ".join(f"'{name}'" for name in lateral[:3]) + (", …" if len(lateral) > 3 else "")
    what = f"{several} have" if len(lateral) > 1 else f"{one} has"
    return f"{len(lateral)} {what} a side ({shown})"
