"""``--to monai``: a state of a network class of MONAI, and the arguments that build it.

``cnn`` is MONAI's ``DynUNet`` with residual blocks, ``swin_unetr`` its ``SwinUNETR``,
``resnet_unet`` its ``FlexibleUNet``; each without the output layer, which belongs to a task.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monai.networks.nets
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from situs.backbones import Backbone, BackboneConfig
from situs.backbones.cnn import CnnOptions
from situs.backbones.options import monai_norm, per_step
from situs.backbones.resnet_unet import ResnetUnetOptions
from situs.backbones.swin_unetr import SwinUnetrOptions
from situs.config import validate
from situs.errors import SitusError
from situs.export.checks import insist_same, probe_image
from situs.export.export import Origin, Written
from situs.files import write_json

# Output layers of the three classes, and names under which DynUNet holds its blocks again.
_OF_A_TASK = ("out.", "segmentation_head.", "output_block.")
_AGAIN = ("skip_layers.",)


def write(origin: Origin, out: Path) -> Written:
    """Write ``model.safetensors``, ``network.json`` (class and arguments) and ``card.json``.

    Raises:
        SitusError: For a backbone that MONAI has no class for.
    """
    config = origin.card.backbone
    name, arguments = network_arguments(config)
    save_file(network_state(config, origin.backbone), out / "model.safetensors")
    description = {"_target_": f"monai.networks.nets.{name}", **arguments}
    write_json(out / "network.json", description, indent=1)
    write_json(out / "card.json", origin.card.model_dump(mode="json"), indent=1)

    network = getattr(monai.networks.nets, name)(**arguments).eval()
    missing, unexpected = network.load_state_dict(
        load_file(out / "model.safetensors"), strict=False
    )
    odd = [n for n in missing if not n.startswith((*_OF_A_TASK, *_AGAIN))] + list(unexpected)
    if odd:
        raise SitusError(f"MONAI's {name} and the backbone differ in {odd[:3]}; nothing written")
    head = _output_layer(network)
    difference = insist_same(
        lambda x: [head(origin.backbone(x))],
        lambda x: [network(x)],
        probe_image(origin.backbone),
        "MONAI",
    )
    return Written(
        f"MONAI's {name} loaded it and computes the same up to its output layer "
        f"(relative difference {difference:.0e})",
        "import json, monai\n"
        "from safetensors.torch import load_file\n"
        "arguments = json.load(open('FOLDER/network.json'))\n"
        "arguments['out_channels'] = 3  # of your task\n"
        f"network = monai.networks.nets.{name}("
        "**{k: v for k, v in arguments.items() if k != '_target_'})\n"
        "print(network.load_state_dict(load_file('FOLDER/model.safetensors'), strict=False))",
    )


def network_arguments(config: BackboneConfig) -> tuple[str, dict[str, Any]]:
    """MONAI's class and its arguments for a backbone, JSON-able."""
    shared = {
        "spatial_dims": config.spatial_dims,
        "in_channels": config.in_channels,
        "out_channels": 1,
    }
    if config.name == "swin_unetr":
        swin = validate(SwinUnetrOptions, config.options)
        return "SwinUNETR", {
            **shared,
            "feature_size": swin.feature_size,
            "depths": swin.depths,
            "num_heads": swin.num_heads,
            "window_size": swin.window_size,
            "norm_name": list(monai_norm(swin.norm, [swin.feature_size])),
        }
    if config.name == "resnet_unet":
        resnet = validate(ResnetUnetOptions, config.options)
        return "FlexibleUNet", {
            **shared,
            "backbone": resnet.resnet,
            "decoder_channels": resnet.decoder_channels,
            "is_pad": False,
        }
    if config.name == "cnn":
        return "DynUNet", {**shared, **_dynunet(validate(CnnOptions, config.options), config)}
    raise SitusError(
        f"MONAI has no network like '{config.name}'; it can take cnn, resnet_unet and "
        "swin_unetr. Other targets: nnunet, onnx, safetensors"
    )


def network_state(config: BackboneConfig, backbone: Backbone) -> dict[str, Tensor]:
    """The backbone's weights under MONAI's names."""
    if config.name == "swin_unetr":
        state = {**backbone.encoder_state(), **backbone.decoder_state()}
    elif config.name == "resnet_unet":
        state = dict(backbone.state_dict())
    else:
        state = _dynunet_state(backbone)
    # DynUNet holds every block twice; safetensors takes no tensors that share memory.
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def _dynunet(options: CnnOptions, config: BackboneConfig) -> dict[str, Any]:
    scales = len(options.channels)
    if scales < 3:
        raise SitusError("MONAI's DynUNet has at least 3 scales; this cnn has 2")
    steps = [list(s) for s in per_step(options.strides, scales - 1, config.spatial_dims, "strides")]
    return {
        "kernel_size": [[3] * config.spatial_dims] * scales,
        "strides": [[1] * config.spatial_dims, *steps],
        "upsample_kernel_size": steps,
        "filters": options.channels,
        "norm_name": list(monai_norm(options.norm, options.channels)),
        "res_block": True,
    }


def _dynunet_state(backbone: Backbone) -> dict[str, Tensor]:
    last = len(backbone.channels) - 1
    places = {0: "input_block", last: "bottleneck"}
    state = {}
    for name, tensor in backbone.encoder_state().items():
        _, index, rest = name.split(".", 2)
        place = places.get(int(index), f"downsamples.{int(index) - 1}")
        state[f"{place}.{rest}"] = tensor
    for name, tensor in backbone.decoder_state().items():
        state[name.replace("blocks.", "upsamples.", 1)] = tensor
    return state


def _output_layer(network: nn.Module) -> nn.Module:
    for name in _OF_A_TASK:
        layer = getattr(network, name[:-1], None)
        if isinstance(layer, nn.Module):
            return layer
    raise SitusError(f"{type(network).__name__} has no output layer that situs knows")
