"""U-Nets as nnU-Net v2 and nnssl (OpenMind, nnFoundation) store them.

Both train on (Z, Y, X), reordered by their plans: every kernel is turned on the way in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from situs.backbones import BackboneConfig
from situs.errors import ConfigError, TransferError
from situs.weights.axes import inverse, reordered, turned
from situs.weights.foreign.found import Found
from situs.weights.nnunet_plans import NnunetPlan

_WRAPPERS = ("module.", "_orig_mod.", "net.")
_FIRST = "encoder.stages.0.0.convs.0.conv.weight"


def find(state: Mapping[str, Tensor], rest: Mapping[str, Any]) -> Found | None:
    """The U-Net that a checkpoint holds, or None where it holds none.

    Its size is read off its tensors; axes, spacing and intensities off its plans, where it has
    them (``init_args`` of nnU-Net, ``nnssl_adaptation_plan``).
    """
    bare = {_bare(name): tensor for name, tensor in state.items()}
    if not any(name.startswith("encoder.stages.0.") for name in bare):
        return None
    dims = next(t.ndim - 2 for n, t in bare.items() if n.endswith(".conv.weight"))
    order = training_order(rest, dims)
    # The package holds the encoder again inside the decoder.
    own = {n: t for n, t in bare.items() if not n.startswith("decoder.encoder.")}
    kept = {n: t for n, t in own.items() if not n.startswith("decoder.seg_layers.")}
    kept = {n: t for n, t in kept.items() if n.startswith(("encoder.", "decoder."))}
    other = {n: "an output layer, or of the pretext task" for n in own if n not in kept}
    nnssl = "nnssl_adaptation_plan" in rest
    layout = "nnssl" if nnssl else "nnunet"
    return Found(
        layout,
        _config(kept, inverse(order), _strides(rest, len(order))),
        turned(kept, inverse(order)),
        other,
        checkpoint_rules(rest),
        "an encoder that nnssl pretrained" if nnssl else "a network that nnU-Net v2 trained",
        "",
        notes(rest),
    )


def _bare(name: str) -> str:
    while prefix := next((w for w in _WRAPPERS if name.startswith(w)), ""):
        name = name.removeprefix(prefix)
    return name


def _plan(rest: Mapping[str, Any]) -> NnunetPlan | None:
    given = rest.get("init_args")
    if not isinstance(given, Mapping) or "plans" not in given:
        return None
    try:
        return NnunetPlan.of(
            given["plans"], str(given.get("configuration")), "the checkpoint's plans"
        )
    except ConfigError as error:
        raise TransferError(str(error)) from None


def _nnssl_configuration(rest: Mapping[str, Any]) -> Mapping[str, Any]:
    plan = rest.get("nnssl_adaptation_plan", {})
    configurations = (plan.get("pretrain_plan") or {}).get("configurations") or {}
    return next(iter(configurations.values()), {}) or {}


def training_order(rest: Mapping[str, Any], dims: int) -> tuple[int, ...]:
    """Which of situs's axes becomes each of those that a checkpoint's network was fed.

    Args:
        rest: What the checkpoint holds beside the weights.
        dims: 2 or 3.
    """
    plan = _plan(rest)
    return plan.order if plan else tuple(reversed(range(dims)))


def input_size(rest: Mapping[str, Any]) -> list[int] | None:
    """Voxels that a checkpoint's network was fed, in the order of its own axes, if it says so."""
    plan = _plan(rest)
    size = plan.configuration["patch_size"] if plan else None
    size = size or _nnssl_configuration(rest).get("patch_size")
    return None if size is None else [int(n) for n in size]


def checkpoint_rules(rest: Mapping[str, Any]) -> dict[str, Any]:
    """Preprocessing that a checkpoint of nnU-Net or nnssl tells of."""
    plan = _plan(rest)
    if plan is not None:
        return plan.preprocessing
    spacing = _nnssl_configuration(rest).get("spacing")
    if spacing is None:
        return {"spacing": "native"} if rest else {}
    return {"spacing": tuple(float(s) for s in reversed(spacing))}


def notes(rest: Mapping[str, Any]) -> tuple[str, ...]:
    """What a user of such a checkpoint should know."""
    plan = _plan(rest)
    if plan is not None and plan.reorients:
        return ()
    return (
        "it was trained along the axes of files, taken here as X, Y, Z: where its files were not "
        "stored towards R, A, S, it knows anatomy mirrored or turned",
    )


def _strides(rest: Mapping[str, Any], dims: int) -> list[list[int]] | None:
    """Of all stages, from an adaptation plan: an encoder alone does not tell."""
    plan = rest.get("nnssl_adaptation_plan", {}).get("architecture_plans") or {}
    strides = (plan.get("arch_kwargs") or {}).get("strides")
    if strides is None:
        return None
    return [[int(s)] * dims if isinstance(s, int) else [int(v) for v in s] for s in strides][1:]


def _config(
    state: Mapping[str, Tensor], back: tuple[int, ...], strides: list[list[int]] | None
) -> BackboneConfig:
    """Size and kind of the network, read off its tensors."""
    residual = any(name.startswith("encoder.stem.") for name in state)
    stages = 1 + max(int(n.split(".")[2]) for n in state if n.startswith("encoder.stages."))
    channels, blocks, kernels = [], [], []
    for stage in range(stages):
        block = rf"encoder\.stages\.{stage}\." + (
            r"blocks\.(\d+)\.conv1\.conv\.weight" if residual else r"0\.convs\.(\d+)\.conv\.weight"
        )
        found = [tensor for name, tensor in state.items() if re.fullmatch(block, name)]
        if not found:
            raise TransferError(f"stage {stage} of the encoder has no convolutions that are known")
        channels.append(int(found[0].shape[0]))
        blocks.append(len(found))
        kernels.append(reordered([int(n) for n in found[-1].shape[2:]], back))
    ups = sorted(
        (int(n.split(".")[2]), tensor)
        for n, tensor in state.items()
        if re.fullmatch(r"decoder\.transpconvs\.\d+\.weight", n)
    )
    if len(ups) == stages - 1:  # up-sampling undoes the strides, coarse to fine
        strides = [[int(n) for n in tensor.shape[2:]] for _, tensor in reversed(ups)]
    steps = strides or [[2] * len(back)] * (stages - 1)
    convs = r"decoder\.stages\.0\.convs\.\d+\.conv\.weight"
    first = state["encoder.stem.convs.0.conv.weight" if residual else _FIRST]
    return BackboneConfig(
        name="nnunet",
        spatial_dims=len(back),
        in_channels=int(first.shape[1]),
        options={
            "encoder": "residual" if residual else "plain",
            "channels": channels,
            "blocks": blocks,
            "strides": [reordered(s, back) for s in steps],
            "kernels": kernels,
            "decoder_convs": max(1, sum(bool(re.fullmatch(convs, n)) for n in state)),
        },
    )
