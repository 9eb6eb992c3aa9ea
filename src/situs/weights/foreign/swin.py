"""SwinUNETR as MONAI, VoCo and SuPreM store it.

All three train on (X, Y, Z) with axes towards R, A, S, as MONAI's ``Orientationd("RAS")`` gives
them: names differ, axes do not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from situs.backbones import BackboneConfig
from situs.weights.foreign.found import Found

_WRAPPERS = ("module.", "backbone.", "network.", "model.", "net.")
_TRANSFORMER = re.compile(r"(patch_embed|layers[1-4]c?|norm|pos_drop)\.")
_UNET = re.compile(r"(encoder(1|2|3|4|10)|decoder[1-5])\.")
_CT = {"ct_window": (-175.0, 250.0), "ct_range": (0.0, 1.0), "spacing": (1.5, 1.5, 1.5)}

# layout → what its authors' code says of scans, where it comes from, its licence.
_KNOWN: dict[str, tuple[dict[str, Any], str, str]] = {
    "monai": (
        {"ct_window": (-1000.0, 1000.0), "ct_range": (0.0, 1.0), "spacing": (1.5, 1.5, 2.0)},
        "SwinUNETR pretrained on 5,050 CTs (arXiv 2111.14791)",
        "Apache-2.0",
    ),
    "voco": (_CT, "VoCo / Large-Scale-Medical (arXiv 2402.17300, 2410.09890)", "Apache-2.0"),
    "suprem": (_CT, "SuPreM (arXiv 2501.11253)", ""),
    "swin_unetr": ({}, "a SwinUNETR in MONAI's names", ""),
}


def find(state: Mapping[str, Tensor], rest: Mapping[str, Any]) -> Found | None:
    """The SwinUNETR that a checkpoint holds, or None where it holds none.

    ``model_swinvit.pt`` has the transformer alone, with perceptrons called ``fc1`` and ``fc2``;
    VoCo wraps the network as ``backbone`` and has projection heads beside it; SuPreM says
    ``module.backbone`` and has organ queries. A first convolution in each stage marks
    SwinUNETR-V2.
    """
    named = {name: _bare(name) for name in state}
    if not any(n.endswith("relative_position_bias_table") for n in named.values()):
        return None
    ours = {n for n, b in named.items() if b.startswith("swinViT.") or _UNET.match(b)}
    found = {named[n]: state[n] for n in state if n in ours}
    if "swinViT.patch_embed.proj.weight" not in found:
        return None
    layout = _layout(state)
    preprocessing, source, licence = _KNOWN[layout]
    notes = ("scans must be CT in Hounsfield units",) if preprocessing else ()
    return Found(
        layout,
        _config(found),
        found,
        {n: "a head, or of the pretext task" for n in state if n not in ours},
        preprocessing,
        source,
        licence,
        notes,
    )


def told(found: Found, layout: str) -> Found:
    """The same weights where the user says whose they are."""
    preprocessing, source, licence = _KNOWN[layout]
    return replace(
        found, layout=layout, preprocessing=preprocessing, source=source, licence=licence
    )


def _bare(name: str) -> str:
    while prefix := next((w for w in _WRAPPERS if name.startswith(w)), ""):
        name = name.removeprefix(prefix)
    name = name.replace("swin_vit.", "swinViT.", 1)
    if _TRANSFORMER.match(name):
        name = f"swinViT.{name}"
    return name.replace(".mlp.fc", ".mlp.linear")


def _layout(state: Mapping[str, Tensor]) -> str:
    names = "\n".join(state)
    if ".mlp.fc1." in names:
        return "monai"
    if re.search(r"^(module\.)?(student|teacher)\.|layers1c\.", names, re.M):
        return "voco"
    if re.search(r"organ_embedding|precls_conv|^module\.backbone\.", names, re.M):
        return "suprem"
    return "swin_unetr"


def _config(state: Mapping[str, Tensor]) -> BackboneConfig:
    """Size and kind of the network, read off its tensors."""
    patch = state["swinViT.patch_embed.proj.weight"]
    dims = patch.ndim - 2
    depths, heads, window = [], [], 7
    for stage in range(1, 5):
        tables = [
            tensor
            for name, tensor in state.items()
            if re.match(rf"swinViT\.layers{stage}\.0\.blocks\.\d+\.attn\.relative_pos.*table", name)
        ]
        depths.append(len(tables))
        heads.append(int(tables[0].shape[1]))
        window = (round(float(tables[0].shape[0]) ** (1 / dims)) + 1) // 2
    options: dict[str, Any] = {
        "feature_size": int(patch.shape[0]),
        "depths": depths,
        "num_heads": heads,
        "window_size": window,
    }
    if any(name.startswith("swinViT.layers1c.") for name in state):
        options["use_v2"] = True
    return BackboneConfig(
        name="swin_unetr", spatial_dims=dims, in_channels=int(patch.shape[1]), options=options
    )
