"""``--to nnunet``: weights in nnU-Net's names and axis order, and plans that build their network.

situs feeds networks (X, Y, Z) with axes towards R, A, S; nnU-Net feeds (Z, Y, X), reordered by
its plans. Every kernel, stride and kernel size is turned on the way out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from situs.errors import SitusError, require
from situs.export.checks import insist_same, probe_image
from situs.export.export import Origin, Written
from situs.files import write_file, write_json
from situs.weights import Card, write_tensors
from situs.weights.axes import reordered, turned
from situs.weights.nnunet_plans import NnunetPlan, architecture_of, patched

_OF_A_TASK = ".seg_layers."
PLANS_NAME = "situsPlans"

_README = """\
# For nnU-Net

`model.safetensors` holds all weights of nnU-Net's `{cls}` but its output layers, for images whose
axes are {axes}: nnU-Net's order{order_note}. `architecture.json` is the `architecture` of a
configuration in its plans.

{steps}
## What must agree

| | the weights expect | in nnU-Net |
| --- | --- | --- |
| direction of axes | towards R, A, S | `"overwrite_image_reader_writer": \
"NibabelIOWithReorient"` in `dataset.json` before planning{reader_note}; its other readers keep a \
file's own axes and directions |
| spacing | {spacing} | `spacing` of the configuration |
| CT | window {window} HU to {range} | `CTNormalization` with mean {mean}, standard deviation \
{std}, percentiles {window} |
| other scans | z-scores of the body, clipped at percentiles {percentiles} | \
`ZScoreNormalization` is close, not the same |
| size | multiples of {divisor} | `patch_size` |
"""

_WITH_PLAN = """\
1. Put `{name}.json` beside the data set's own plans, in `nnUNet_preprocessed/DATASET`.
2. `nnUNetv2_preprocess -d DATASET -plans_name {name} -c {configuration}`
3. `nnUNetv2_train DATASET {configuration} FOLD -p {name} -pretrained_weights pretrained.pth`
{pickle}
"""

_WITHOUT_PLAN = """\
Plans that need no editing: `situs export RUN --to nnunet --plan nnUNetPlans.json --out FOLDER`.
Otherwise set the architecture, patch size, spacing and reader in the plans of your data set, and
train with `-pretrained_weights pretrained.pth`.
{pickle}
"""

_MAKE_PICKLE = """
nnU-Net reads weights from a pickled file; `situs export --pth` writes it, or this:

```python
import torch
from safetensors.torch import load_file
torch.save({"network_weights": load_file("model.safetensors")}, "pretrained.pth")
```
"""


def write(origin: Origin, out: Path) -> Written:
    """Write ``model.safetensors``, ``architecture.json``, ``card.json`` and a README.

    With a plan also ``situsPlans.json``; with ``pth`` also ``pretrained.pth``, which nnU-Net's
    ``-pretrained_weights`` and nnssl's adaptation tools load.

    Raises:
        SitusError: For another backbone than ``nnunet``.
        ConfigError: For a plan of another dimension or that cannot be read.
    """
    card = origin.card
    if card.backbone.name != "nnunet":
        raise SitusError(
            f"nnU-Net loads weights of the backbone 'nnunet', these are of '{card.backbone.name}'; "
            "pretrain with --backbone nnunet, or export to monai or safetensors"
        )
    dims = card.backbone.spatial_dims
    plan = _plan(origin, dims)
    order = plan.order if plan else tuple(reversed(range(dims)))
    architecture = architecture_of(card.backbone, order)
    network = reference(architecture, card.backbone.in_channels)
    state = turned(origin.backbone.state_dict(), order)
    network.load_state_dict(_with_encoder_again(state), strict=False)
    state = {
        name: tensor.detach().clone().contiguous()
        for name, tensor in network.state_dict().items()
        if _OF_A_TASK not in name
    }
    write_tensors(out / "model.safetensors", state)
    write_json(out / "architecture.json", architecture, indent=1)
    write_json(out / "card.json", card.model_dump(mode="json"))
    if plan is not None:
        plans = patched(plan, card.backbone, card.preprocessing, PLANS_NAME)
        write_json(out / f"{PLANS_NAME}.json", plans)
    if origin.pth:
        adaptation = adaptation_plan(card, architecture, order)
        torch.save({"network_weights": state, "nnssl_adaptation_plan": adaptation}, _pth(out))
        write_json(out / "adaptation_plan.json", adaptation)
    readme = _readme(card, reordered(origin.backbone.divisor, order), order, plan, origin.pth)
    write_file(out / "README.md", readme)
    difference = _check(origin, out, order)
    return Written(
        f"nnU-Net's {architecture['network_class_name'].rpartition('.')[2]} loaded every tensor "
        "but its output layers and computes the same on the image in its own axis order "
        f"(relative difference {difference:.0e})",
        _usage(plan, origin.pth),
    )


def adaptation_plan(
    card: Card, architecture: dict[str, Any], order: tuple[int, ...]
) -> dict[str, Any]:
    """The adaptation plan of nnssl: where its tools find encoder, stem and first projection.

    Keys are those of nnssl's ``AdaptationPlan``; sizes and spacing are in nnU-Net's axis order.
    """
    spacing = card.preprocessing.get("spacing")
    known = isinstance(spacing, list | tuple) and len(spacing) == len(order)
    size = reordered(card.view_size, order) if len(card.view_size) == len(order) else None
    stem = "encoder.stem" if "n_blocks_per_stage" in architecture["arch_kwargs"] else None
    first = "encoder.stem" if stem else "encoder.stages.0.0"
    return {
        "architecture_plans": {
            "arch_class_name": architecture["network_class_name"].rpartition(".")[2],
            "arch_kwargs": architecture["arch_kwargs"],
            "arch_kwargs_requiring_import": architecture["_kw_requires_import"],
        },
        "pretrain_plan": {
            "configurations": {
                "situs": {
                    "spacing": reordered(spacing, order) if known and spacing else None,
                    "patch_size": size,
                }
            }
        },
        "pretrain_num_input_channels": card.backbone.in_channels,
        "recommended_downstream_patchsize": size,
        "key_to_encoder": "encoder.stages",
        "key_to_stem": stem or "encoder.stages.0",
        "keys_to_in_proj": [f"{first}.convs.0.conv", f"{first}.convs.0.all_modules.0"],
        "key_to_lpe": None,
    }


def reference(architecture: dict[str, Any], in_channels: int) -> Any:
    """The network that nnU-Net builds from its plans, one class, without deep supervision."""
    require("dynamic_network_architectures", "nnunet")
    from dynamic_network_architectures.architectures import unet  # noqa: PLC0415 - an extra

    arguments = dict(architecture["arch_kwargs"])
    for name in architecture["_kw_requires_import"]:
        if arguments[name] is not None:
            arguments[name] = getattr(nn, arguments[name].rpartition(".")[2])
    kind = getattr(unet, architecture["network_class_name"].rpartition(".")[2])
    return kind(
        input_channels=in_channels, num_classes=1, deep_supervision=False, **arguments
    ).eval()


def _plan(origin: Origin, dims: int) -> NnunetPlan | None:
    if origin.plan is None:
        return None
    plan = NnunetPlan.read(
        origin.plan, origin.configuration or ("2d" if dims == 2 else "3d_fullres")
    )
    if plan.spatial_dims != dims:
        raise SitusError(
            f"{origin.plan}: configuration '{plan.name}' is {plan.spatial_dims}D, the weights are "
            f"{dims}D; name another with --configuration"
        )
    return plan


def _check(origin: Origin, out: Path, order: tuple[int, ...]) -> float:
    """Load what was written, and compare on the same image in either order of axes."""
    again = reference(json.loads((out / "architecture.json").read_text()), origin.in_channels)
    missing, unexpected = again.load_state_dict(load_file(out / "model.safetensors"), strict=False)
    odd = [n for n in missing if _OF_A_TASK not in n] + list(unexpected)
    if odd:
        raise SitusError(f"nnU-Net's network and the backbone differ in {odd[:3]}; nothing written")
    head = again.decoder.seg_layers[-1]
    axes = (0, 1, *(2 + axis for axis in order))
    return insist_same(
        lambda x: [head(origin.backbone(x).permute(axes))],
        lambda x: [again(x.permute(axes))],
        probe_image(origin.backbone),
        "nnU-Net",
    )


def _with_encoder_again(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """nnU-Net's decoder holds its encoder too, under a second name."""
    again = {f"decoder.{n}": t for n, t in state.items() if n.startswith("encoder.")}
    return {**state, **again}


def _readme(
    card: Card, divisor: list[int], order: tuple[int, ...], plan: NnunetPlan | None, pth: bool
) -> str:
    spacing = card.preprocessing.get("spacing", "native")
    low, high = card.preprocessing.get("ct_window", (-1000.0, 1000.0))
    first, last = card.preprocessing.get("ct_range", (-1.0, 1.0))
    spread = (high - low) / (last - first)
    names = "XYZ" if len(order) == 3 else ("rows", "columns")
    pickle = "" if pth else _MAKE_PICKLE
    steps = _WITHOUT_PLAN if plan is None else _WITH_PLAN
    return _README.format(
        cls=architecture_of(card.backbone, order)["network_class_name"],
        axes="(" + ", ".join(names[axis] for axis in order) + ")",
        order_note="" if plan is None else " in these plans",
        steps=steps.format(name=PLANS_NAME, configuration=plan.name if plan else "", pickle=pickle),
        reader_note=" (these plans have it)" if plan else "",
        spacing="each scan's own" if spacing == "native" else f"{spacing} mm along X, Y, Z",
        window=f"{low:g} … {high:g}",
        range=f"{first:g} … {last:g}",
        mean=f"{low - first * spread:g}",
        std=f"{spread:g}",
        percentiles=tuple(card.preprocessing.get("percentiles", (0.5, 99.5))),
        divisor=tuple(divisor),
    )


def _usage(plan: NnunetPlan | None, pth: bool) -> str:
    lines = [] if pth else ["import torch", "from safetensors.torch import load_file"]
    if not pth:
        lines += [
            "weights = load_file('FOLDER/model.safetensors')",
            "torch.save({'network_weights': weights}, 'pretrained.pth')",
        ]
    file = "FOLDER/pretrained.pth" if pth else "pretrained.pth"
    if plan is not None:
        lines.append(f"# copy FOLDER/{PLANS_NAME}.json to nnUNet_preprocessed/DATASET, then")
        lines.append(f"# nnUNetv2_preprocess -d DATASET -plans_name {PLANS_NAME} -c {plan.name}")
    plans = f" -p {PLANS_NAME}" if plan is not None else ""
    name = plan.name if plan is not None else "CONFIGURATION"
    lines.append(f"# nnUNetv2_train DATASET {name} FOLD{plans} -pretrained_weights {file}")
    return "\n".join(lines)


def _pth(out: Path) -> Path:
    return out / "pretrained.pth"
