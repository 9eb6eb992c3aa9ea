"""``--to nnunet``: weights under nnU-Net's names, and the architecture for its plans.

nnU-Net reads pretrained weights from a pickled file. situs writes none; the line that makes one
from the safetensors file stands in the folder's README.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from situs.backbones.nnunet import NnunetOptions
from situs.backbones.options import per_step
from situs.config import validate
from situs.errors import SitusError, require
from situs.export.checks import insist_same, probe_image
from situs.export.export import Origin, Written
from situs.files import write_file, write_json
from situs.weights import Card

_CLASS = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
_OF_A_TASK = ".seg_layers."

_README = """\
# For nnU-Net

`model.safetensors` holds all weights of `{cls}`
but the output layers; `architecture.json` is the `architecture` of a configuration in nnU-Net's
plans. Set it (and the patch size, a multiple of {divisor}) in the plans of your data set, then:

```python
import torch
from safetensors.torch import load_file
torch.save({{"network_weights": load_file("model.safetensors")}}, "pretrained.pth")
```

    nnUNetv2_train DATASET CONFIGURATION FOLD -pretrained_weights pretrained.pth

The weights expect {spacing}, axes towards R, A, S and {channels} channel(s); intensities as in
`card.json`. nnU-Net's own normalisation of MR is close to it (z-score), that of CT is not.
"""


def write(origin: Origin, out: Path) -> Written:
    """Write ``model.safetensors``, ``architecture.json``, ``card.json`` and a README.

    Raises:
        SitusError: For another backbone than ``nnunet``.
    """
    card = origin.card
    if card.backbone.name != "nnunet":
        raise SitusError(
            f"nnU-Net loads weights of the backbone 'nnunet', these are of '{card.backbone.name}'; "
            "pretrain with --backbone nnunet, or export to monai or safetensors"
        )
    architecture = plans_architecture(card)
    network = _reference(architecture, card.backbone.in_channels)
    network.load_state_dict(_with_encoder_again(origin.backbone.state_dict()), strict=False)
    state = {
        name: tensor.detach().clone().contiguous()
        for name, tensor in network.state_dict().items()
        if _OF_A_TASK not in name
    }
    save_file(state, out / "model.safetensors")
    write_json(out / "architecture.json", architecture, indent=1)
    write_json(out / "card.json", card.model_dump(mode="json"), indent=1)
    write_file(out / "README.md", _readme(card, origin.backbone.divisor))

    again = _reference(
        json.loads((out / "architecture.json").read_text()), origin.backbone.in_channels
    )
    missing, unexpected = again.load_state_dict(load_file(out / "model.safetensors"), strict=False)
    odd = [n for n in missing if _OF_A_TASK not in n] + list(unexpected)
    if odd:
        raise SitusError(f"nnU-Net's network and the backbone differ in {odd[:3]}; nothing written")
    head = again.decoder.seg_layers[-1]
    difference = insist_same(
        lambda x: [head(origin.backbone(x))],
        lambda x: [again(x)],
        probe_image(origin.backbone),
        "nnU-Net",
    )
    return Written(
        "nnU-Net's ResidualEncoderUNet loaded every tensor but its output layers and computes "
        f"the same (relative difference {difference:.0e})",
        "import torch\n"
        "from safetensors.torch import load_file\n"
        "weights = load_file('FOLDER/model.safetensors')\n"
        "torch.save({'network_weights': weights}, 'pretrained.pth')\n"
        "# nnUNetv2_train DATASET CONFIGURATION FOLD -pretrained_weights pretrained.pth",
    )


def plans_architecture(card: Card) -> dict[str, Any]:
    """The ``architecture`` of a configuration in nnU-Net's plans (version 2)."""
    options = validate(NnunetOptions, card.backbone.options)
    dims, stages = card.backbone.spatial_dims, len(options.channels)
    steps = per_step(options.strides, stages - 1, dims, "strides")
    return {
        "network_class_name": _CLASS,
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": options.channels,
            "conv_op": f"torch.nn.modules.conv.Conv{dims}d",
            "kernel_sizes": [list(k) for k in per_step(options.kernels, stages, dims, "kernels")],
            "strides": [[1] * dims, *(list(s) for s in steps)],
            "n_blocks_per_stage": options.blocks,
            "n_conv_per_stage_decoder": [options.decoder_convs] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{dims}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _reference(architecture: dict[str, Any], in_channels: int) -> Any:
    """The network that nnU-Net builds from its plans, one class, without deep supervision."""
    require("dynamic_network_architectures", "nnunet")
    from dynamic_network_architectures.architectures.unet import (  # noqa: PLC0415 - an extra
        ResidualEncoderUNet,
    )

    arguments = dict(architecture["arch_kwargs"])
    for name in architecture["_kw_requires_import"]:
        if arguments[name] is not None:
            arguments[name] = getattr(nn, arguments[name].rpartition(".")[2])
    return ResidualEncoderUNet(
        input_channels=in_channels, num_classes=1, deep_supervision=False, **arguments
    ).eval()


def _with_encoder_again(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """nnU-Net's decoder holds its encoder too, under a second name."""
    again = {f"decoder.{n}": t for n, t in state.items() if n.startswith("encoder.")}
    return {**state, **again}


def _readme(card: Card, divisor: tuple[int, ...]) -> str:
    spacing = card.preprocessing.get("spacing", "native")
    words = "each scan's own spacing" if spacing == "native" else f"a spacing of {spacing} mm"
    return _README.format(
        cls=_CLASS, divisor=divisor, spacing=words, channels=card.backbone.in_channels
    )
