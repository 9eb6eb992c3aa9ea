"""Sizes that papers name, as short names for a backbone and its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PRESETS: dict[str, tuple[str, dict[str, Any], str]] = {
    "resenc_l": (
        "nnunet",
        {"encoder": "residual", "channels": [32, 64, 128, 256, 320, 320]}
        | {"blocks": [1, 3, 4, 6, 6, 6]},
        "nnU-Net's ResEnc L, nnssl's and OpenMind's network",
    ),
    "primus_s": ("primus", {"width": 396, "depth": 12, "heads": 6}, "Primus-S"),
    "primus_b": ("primus", {"width": 792, "depth": 12, "heads": 12}, "Primus-B"),
    "primus_m": ("primus", {"width": 864, "depth": 16, "heads": 12}, "Primus-M, OpenMind's"),
    "primus_l": ("primus", {"width": 1056, "depth": 24, "heads": 16}, "Primus-L"),
    "vit_s": ("vit", {"width": 384, "depth": 12, "heads": 6}, "ViT-S"),
    "vit_b": ("vit", {"width": 768, "depth": 12, "heads": 12}, "ViT-B"),
    "vit_l": ("vit", {"width": 1024, "depth": 24, "heads": 16}, "ViT-L, 3DINO's"),
    "swin_unetr_b": ("swin_unetr", {"feature_size": 48}, "SwinUNETR-B, of VoCo and SuPreM"),
    "swin_unetr_v2_b": (
        "swin_unetr",
        {"feature_size": 48, "use_v2": True},
        "SwinUNETR-V2, of Large-Scale-Medical",
    ),
}
"""Name → backbone, its options, whose size it is."""


def expanded(values: Any) -> Any:
    """The settings of a backbone with a preset's name replaced by what it stands for.

    Args:
        values: What the user wrote; options of their own come before the preset's.
    """
    if not isinstance(values, Mapping) or values.get("name") not in PRESETS:
        return values
    name, options, _ = PRESETS[values["name"]]
    return {**values, "name": name, "options": {**options, **(values.get("options") or {})}}
