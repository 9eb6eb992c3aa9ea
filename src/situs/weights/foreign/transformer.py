"""Vision transformers: Primus as nnU-Net v2 and nnssl store it, and DINOv2's names (3DINO).

Primus trains on (Z, Y, X), as the U-Nets of nnU-Net do. Turning it takes three things: kernels,
learned positions, and the order of a head's rotary pairs, of which each axis has its share.
3DINO reads (X, Y, Z).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from situs.backbones import BackboneConfig
from situs.errors import TransferError
from situs.weights.axes import inverse, reordered
from situs.weights.foreign.found import Found
from situs.weights.foreign.nnunet import checkpoint_rules, input_size, notes, training_order

_WRAPPERS = ("module.", "_orig_mod.", "backbone.", "encoder.", "net.", "model.")
_HEADS = {396: 6, 792: 12, 864: 12, 1056: 16}  # Primus S, B, M, L
_HEAD_SIZE = 64  # of every published ViT in DINOv2's form
_CHUNK = re.compile(r"^blocks\.\d+\.(?=\d+\.)")  # FSDP's chunks keep each block's own number
_PRETEXT = "a head, or of the pretext task"


def find(state: Mapping[str, Tensor], rest: Mapping[str, Any]) -> Found | None:
    """The transformer that a checkpoint holds, or None where it holds none."""
    bare = {_bare(name): tensor for name, tensor in state.items()}
    if "down_projection.proj.weight" in bare:
        return _primus(bare, rest)
    if "patch_embed.proj.weight" in bare and "pos_embed" in bare:
        return _dino(bare)
    return None


def _bare(name: str) -> str:
    while prefix := next((w for w in _WRAPPERS if name.startswith(w)), ""):
        name = name.removeprefix(prefix)
    return _CHUNK.sub("blocks.", name)


def _primus(bare: Mapping[str, Tensor], rest: Mapping[str, Any]) -> Found:
    kernel = bare["down_projection.proj.weight"]
    width, channels, *patch = kernel.shape
    if width not in _HEADS:
        raise TransferError(f"a Primus of {width} numbers a token is none that was published")
    back = inverse(training_order(rest, len(patch)))
    state = {
        "embed.proj.weight": kernel.permute(0, 1, *(2 + axis for axis in back)).contiguous(),
        "embed.proj.bias": bare["down_projection.proj.bias"],
    }
    grid: list[int] = []
    if (positions := bare.get("eva.pos_embed")) is not None:
        size = input_size(rest)
        cells = [n // p for n, p in zip(size, patch, strict=True)] if size else []
        grid = _grid(positions.shape[1], cells, len(patch))
        axes = (0, *(1 + axis for axis in back), len(patch) + 1)
        state["embed.positions"] = positions.unflatten(1, grid).permute(axes).flatten(1, -2)
    for name, tensor in bare.items():
        if name.startswith(("eva.blocks.", "eva.norm.")):
            own = name.removeprefix("eva.")
            turns = re.search(r"attn\.[qk]_proj\.", own) is not None
            state[own] = _turned_pairs(tensor, _HEADS[width], back) if turns else tensor
    options = {
        "width": width,
        "depth": _depth(state),
        "heads": _HEADS[width],
        "patch": reordered(patch, back),
        "grid": reordered(grid, back) if grid else [],
    }
    known = {f"eva.{name}" for name in state} | {
        "down_projection.proj.weight",
        "down_projection.proj.bias",
        "eva.pos_embed",
    }
    nnssl = "nnssl_adaptation_plan" in rest
    return Found(
        "nnssl" if nnssl else "nnunet",
        BackboneConfig(
            name="primus", spatial_dims=len(patch), in_channels=channels, options=options
        ),
        _named(state),
        {name: "a decoder, or of the pretext task" for name in bare if name not in known},
        checkpoint_rules(rest),
        "a Primus that nnssl pretrained" if nnssl else "a Primus that nnU-Net v2 trained",
        "",
        ("its decoder is left out: situs's has another width", *notes(rest)),
    )


def _turned_pairs(tensor: Tensor, heads: int, back: Sequence[int]) -> Tensor:
    """Rows of a projection to queries or keys, each axis's share of a head in its new place."""
    shares = tensor.unflatten(0, (heads, len(back), -1))
    return shares[:, list(back)].flatten(0, 2).contiguous()


def _dino(bare: Mapping[str, Tensor]) -> Found:
    kernel = bare["patch_embed.proj.weight"]
    width, channels, *patch = kernel.shape
    if width % _HEAD_SIZE or any(".mlp.w12." in name for name in bare):
        raise TransferError(
            "a transformer in DINOv2's names must have heads of 64 numbers and a perceptron of "
            "two layers (fc1, fc2); this one has others"
        )
    positions = bare["pos_embed"]
    first = int("cls_token" in bare)
    grid = _grid(positions.shape[1] - first, [], len(patch))
    state = {
        "embed.proj.weight": kernel,
        "embed.proj.bias": bare.get("patch_embed.proj.bias", torch.zeros(width)),
        "embed.positions": positions[:, first:],
    }
    taken = {"patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed"}
    if first:
        tokens = [bare["cls_token"] + positions[:, :1]]
        tokens += [bare["register_tokens"]] if "register_tokens" in bare else []
        state["embed.prefix"] = torch.cat(tokens, dim=1)
        taken |= {"cls_token", "register_tokens"}
    other = {}
    for name, tensor in bare.items():
        if name.startswith(("blocks.", "norm.")):
            taken.add(name)
            state.update(_parts(name, tensor))
            if name.endswith("attn.qkv.bias"):
                other[f"{name} (keys)"] = "changes nothing: attention is softmax over keys"
    _fill_plain(state, width)
    three = len(patch) == 3
    options = {
        "width": width,
        "depth": _depth(state),
        "heads": width // _HEAD_SIZE,
        "patch": patch,
        "grid": grid,
        "mlp_ratio": state["blocks.0.mlp.fc1.weight"].shape[0] / width,
        "registers": state["embed.prefix"].shape[1] - 1 if first else 0,
    }
    return Found(
        "3dino" if three else "dinov2",
        BackboneConfig(name="vit", spatial_dims=len(patch), in_channels=channels, options=options),
        _named(state),
        {**{n: _PRETEXT for n in bare if n not in taken}, **other},
        {"percentiles": (0.05, 99.95)} if three else {},
        "3DINO (arXiv 2501.11755)" if three else "a 2D transformer in DINOv2's names",
        "CC-BY-NC-ND-4.0" if three else "",
        _notes(three),
    )


def _notes(three: bool) -> tuple[str, ...]:
    if three:
        return (
            "its axes are taken as X, Y, Z towards R, A, S",
            "it was trained on the percentiles 0.05 to 99.95 of each scan, CT too, stretched to "
            "-1 … 1; situs clips MR there and gives it mean 0 and deviation 1",
        )
    return ("rows and columns of its images are taken as the axes of slices, in this order",)


def _parts(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """One of DINOv2's tensors under the names of this library's blocks."""
    own = name.replace(".ls1.gamma", ".gamma_1").replace(".ls2.gamma", ".gamma_2")
    head, _, leaf = own.rpartition(".")
    if not head.endswith(".qkv"):
        return {own: tensor}
    q, k, v = tensor.chunk(3)
    stem = head.removesuffix("qkv")
    parts = {f"{stem}q_proj.{leaf}": q, f"{stem}v_proj.{leaf}": v}
    # A bias of keys adds one number to every score of a query.
    return parts if leaf == "bias" else {**parts, f"{stem}k_proj.weight": k}


def _fill_plain(state: dict[str, Tensor], width: int) -> None:
    """What transformers leave out where it is 1 or 0, by its value."""
    for block in range(_depth(state)):
        for name in (f"blocks.{block}.gamma_1", f"blocks.{block}.gamma_2"):
            state.setdefault(name, torch.ones(width))
        for name in (f"blocks.{block}.attn.q_proj.bias", f"blocks.{block}.attn.v_proj.bias"):
            state.setdefault(name, torch.zeros(width))
    state.setdefault("embed.prefix", torch.zeros(1, 1, width))


def _depth(state: Mapping[str, Tensor]) -> int:
    return 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))


def _grid(tokens: int, told: Sequence[int], dims: int) -> list[int]:
    side = round(tokens ** (1 / dims))
    for grid in (list(told), [side] * dims):
        if grid and torch.Size(grid).numel() == tokens:
            return grid
    raise TransferError(
        f"its {tokens} positions are of no cube, and the file does not say of which grid they are"
    )


def _named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"encoder.{name}": tensor for name, tensor in state.items()}
