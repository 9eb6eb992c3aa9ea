"""What became of every tensor when weights were loaded: nothing is skipped in silence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from situs.config import Config

Status = Literal["loaded", "adapted", "skipped"]

_LISTED = 12
"""Tensors that were not simply loaded and are still named one by one in the printed table."""


class LedgerEntry(Config):
    """One tensor's fate.

    Attributes:
        part: ``"encoder"``, ``"decoder"`` or ``"head"``.
        name: Its name inside the part.
        status: ``"loaded"`` as it was, ``"adapted"`` to another number of input channels, or
            ``"skipped"``.
        count: Numbers it holds in the network (in the file, if the network has no such tensor).
        wanted: Whether the network has this tensor; the file may hold others.
        reason: Why it was adapted or skipped.
    """

    part: str
    name: str
    status: Status
    count: int
    wanted: bool = True
    reason: str = ""


class Ledger(Config):
    """Every tensor of the network and of the file, loaded, adapted or skipped.

    Attributes:
        source: Where the weights came from.
        entries: One a tensor.
    """

    source: str
    entries: tuple[LedgerEntry, ...]

    def share(self, part: str = "encoder") -> float:
        """Part of the network's numbers in ``part`` that came from the file, 0 to 1."""
        wanted = [e for e in self.entries if e.part == part and e.wanted]
        total = sum(e.count for e in wanted)
        matched = sum(e.count for e in wanted if e.status != "skipped")
        return matched / total if total else 0.0

    @property
    def encoder_share(self) -> float:
        """:meth:`share` of the encoder."""
        return self.share("encoder")

    @property
    def empty(self) -> bool:
        """Whether not a single tensor was loaded."""
        return all(e.status == "skipped" for e in self.entries)

    def summary(self) -> str:
        """One sentence for logs and errors."""
        parts = dict.fromkeys(e.part for e in self.entries)
        return "; ".join(f"{part}: {100 * self.share(part):.1f} % loaded" for part in parts)

    def problems(self, limit: int = _LISTED) -> list[str]:
        """One line for each tensor that was not simply loaded, the first ``limit`` of them."""
        odd = [e for e in self.entries if e.status != "loaded"]
        lines = [f"{e.part}.{e.name} {e.status}: {e.reason}" for e in odd[:limit]]
        return lines + ([f"… and {len(odd) - limit} more"] if len(odd) > limit else [])

    def told(self) -> str:
        """Where the weights came from, what became of each part's tensors, the odd ones by name."""
        lines = [f"weights from {self.source}"]
        for part in dict.fromkeys(e.part for e in self.entries):
            tally = Counter(e.status for e in self.entries if e.part == part)
            counts = ", ".join(f"{tally[s]} {s}" for s in ("loaded", "adapted", "skipped"))
            lines.append(f"{part}: {counts}; {100 * self.share(part):.1f} % of its parameters")
        return "\n".join([*lines, *self.problems()])


class Beginning(Config):
    """Which weights a training began with, and what became of them; goes on with every card.

    Attributes:
        name: Last part of the path, or the name on the Hub.
        sha256: Part → checksum of the file that it was loaded from.
        method: Pretext task that trained them.
        step: Steps that they had been trained.
        data_fingerprint: Of what they had been trained on.
        shares: Part → share of the network's numbers that came from the file, 0 to 1.
        tensors: Part → status → number of tensors.
        not_loaded: Every tensor that was adapted or skipped, with the reason.
        began: What those weights had begun with.
    """

    name: str
    sha256: dict[str, str]
    method: str = ""
    step: int = 0
    data_fingerprint: str = ""
    shares: dict[str, float] = Field(default_factory=dict)
    tensors: dict[str, dict[Status, int]] = Field(default_factory=dict)
    not_loaded: tuple[str, ...] = ()
    began: Beginning | None = None

    def said(self) -> str:
        """One line for a table."""
        shares = ", ".join(f"{100 * share:.1f} % of its {p}" for p, share in self.shares.items())
        return f"{self.name} ({self.method or 'unknown method'}, {self.step} steps), {shares}"


def fill(
    module: nn.Module, state: Mapping[str, Tensor], part: str, channels: tuple[int, int]
) -> list[LedgerEntry]:
    """Copy what fits from ``state`` into ``module`` and say what became of each tensor.

    A weight whose shapes differ only in the number of input channels (from ``channels[0]`` to
    ``channels[1]``) is adapted: the mean over the file's channels, repeated, times their ratio,
    so that activations keep their size when all channels look alike.

    Args:
        module: Filled in place.
        state: Tensors of the file.
        part: What ``module`` is, for the entries.
        channels: Input channels of the network in the file, and of ``module``.
    """
    entries = []
    target = module.state_dict()
    filled: dict[str, Tensor] = {}
    for name, current in target.items():
        tensor = state.get(name)
        status: Status = "skipped"
        if tensor is None:
            reason = "not in the file"
        elif tensor.shape == current.shape:
            filled[name], status, reason = tensor, "loaded", ""
        elif _differs_in_channels(tensor, current, channels):
            filled[name], status = _adapted(tensor, channels[1]), "adapted"
            reason = f"{channels[0]} input channel(s) in the file, {channels[1]} in the network"
        else:
            reason = f"{_size(tensor)} in the file, {_size(current)} in the network"
        entries.append(
            LedgerEntry(part=part, name=name, status=status, count=current.numel(), reason=reason)
        )
    module.load_state_dict(filled, strict=False)
    entries += [
        LedgerEntry(
            part=part,
            name=name,
            status="skipped",
            count=tensor.numel(),
            wanted=False,
            reason="not in the network",
        )
        for name, tensor in state.items()
        if name not in target
    ]
    return entries


def unlacking(entries: Sequence[LedgerEntry], lacks: Collection[str]) -> list[LedgerEntry]:
    """Entries in which tensors that the source never had are not asked for.

    Args:
        entries: From :func:`fill`.
        lacks: ``"part.name"`` of such tensors.
    """
    told = {"wanted": False, "reason": "the imported weights had none"}
    return [
        e.model_copy(update=told) if e.status == "skipped" and f"{e.part}.{e.name}" in lacks else e
        for e in entries
    ]


def left_out(module: nn.Module, part: str, reason: str) -> list[LedgerEntry]:
    """Entries for a part that was not loaded at all."""
    return [
        LedgerEntry(part=part, name=name, status="skipped", count=tensor.numel(), reason=reason)
        for name, tensor in module.state_dict().items()
    ]


def _differs_in_channels(tensor: Tensor, current: Tensor, channels: tuple[int, int]) -> bool:
    return (
        tensor.ndim == current.ndim
        and tensor.ndim > 2
        and (tensor.shape[1], current.shape[1]) == channels
        and tensor.shape[:1] + tensor.shape[2:] == current.shape[:1] + current.shape[2:]
    )


def _adapted(tensor: Tensor, channels: int) -> Tensor:
    ratio = tensor.shape[1] / channels
    mean = tensor.to(torch.float32).mean(dim=1, keepdim=True)
    return mean.expand(-1, channels, *tensor.shape[2:]).mul(ratio).to(tensor.dtype)


def _size(tensor: Tensor) -> str:
    return "×".join(str(n) for n in tensor.shape) or "one number"
