"""What a checkpoint turned out to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from situs.backbones import BackboneConfig


@dataclass(frozen=True)
class Found:
    """A checkpoint in situs's terms.

    Attributes:
        layout: Whose names it has.
        config: The backbone that it fits.
        state: Tensors as the backbone calls them, with or without the name of their part in
            front, kernels turned to situs's axes.
        other: Tensors of the file that no backbone has → why.
        preprocessing: Rules of its scans, as far as the file or its authors' code says.
        source: Where it comes from, in words.
        licence: That its authors state; empty where they do not.
        notes: What a user should know.
    """

    layout: str
    config: BackboneConfig
    state: Mapping[str, Tensor]
    other: Mapping[str, str] = field(default_factory=dict)
    preprocessing: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    licence: str = ""
    notes: tuple[str, ...] = ()
