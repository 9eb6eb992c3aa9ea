"""``--to monai``: a state of a network class of MONAI, and the arguments that build it.

``cnn`` is MONAI's ``DynUNet`` with residual blocks, ``swin_unetr`` its ``SwinUNETR``,
``resnet_unet`` its ``FlexibleUNet``. The output layer is that of a fine-tuned segmentation; a
pretrained network has none, and gets one at random for the task to replace.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import monai.networks.nets
import torch
from safetensors.torch import load_file
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
from situs.export.monai_bundle import why_not, write_bundle
from situs.files import write_json
from situs.transfer.model import TASK, Model
from situs.weights import write_tensors

# Output layers of the three classes, each one convolution.
_OUTPUT = {
    "SwinUNETR": "out.conv.conv",
    "FlexibleUNet": "segmentation_head.0",
    "DynUNet": "output_block.conv.conv",
}


def write(origin: Origin, out: Path) -> Written:
    """Write ``model.safetensors``, ``network.json`` (class and arguments) and ``card.json``.

    Of a model that segments CT also ``configs/``, with which the folder is a bundle.

    Raises:
        SitusError: For a backbone that MONAI has no class for.
    """
    config = origin.card.backbone
    name, arguments = network_arguments(config)
    head = output_layer(origin)
    arguments["out_channels"] = head.out_channels
    network = filled(origin, name, arguments, head)
    write_tensors(out / "model.safetensors", network.state_dict())
    description = {"_target_": f"monai.networks.nets.{name}", **arguments}
    write_json(out / "network.json", description, indent=1)
    write_json(out / "card.json", origin.card.model_dump(mode="json"), indent=1)

    reason = _bundle(origin, out, description)

    again = getattr(monai.networks.nets, name)(**arguments).eval()
    again.load_state_dict(load_file(out / "model.safetensors"), strict=True)
    difference = insist_same(
        lambda x: [head(origin.backbone(x))],
        lambda x: [again(x)],
        probe_image(origin.backbone),
        "MONAI",
    )
    task = "with its output layer" if origin.head else "up to its output layer"
    return Written(
        f"MONAI's {name} loaded every tensor (strict) and computes the same {task} "
        f"(relative difference {difference:.0e}){reason}",
        "import json, monai\n"
        "from safetensors.torch import load_file\n"
        "arguments = json.load(open('FOLDER/network.json'))\n"
        "state = load_file('FOLDER/model.safetensors')\n"
        f"network = monai.networks.nets.{name}("
        "**{k: v for k, v in arguments.items() if k != '_target_'})\n"
        "network.load_state_dict(state)\n"
        "# for a task with another number of classes, set arguments['out_channels'] and\n"
        f"# leave out the keys that begin with '{_OUTPUT[name]}' (strict=False)",
    )


def _bundle(origin: Origin, out: Path, description: dict[str, Any]) -> str:
    """Write a bundle of a fine-tuned model; what to say where there is none."""
    if not (origin.weights / TASK).is_file():
        return ""
    task = Model.load(origin.weights).task
    reason = why_not(task)
    if reason:
        return f"; no bundle: {reason}"
    write_bundle(out, description, task, origin.card)
    return ""


def output_layer(origin: Origin) -> nn.Conv2d | nn.Conv3d:
    """The convolution that makes classes of features: the head, or one at random."""
    conv = nn.Conv3d if origin.card.backbone.spatial_dims == 3 else nn.Conv2d
    weight = origin.head.get("weight")
    segments = weight is not None and weight.ndim == 2 + origin.card.backbone.spatial_dims
    classes = weight.shape[0] if weight is not None and segments else 1
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = conv(origin.backbone.decoder_channels, classes, kernel_size=1)
    if segments:
        layer.load_state_dict(dict(origin.head))
    return layer.eval()


def filled(
    origin: Origin, name: str, arguments: dict[str, Any], head: nn.Conv2d | nn.Conv3d
) -> Any:
    """MONAI's network with the backbone's weights and the output layer.

    Raises:
        SitusError: If a tensor of the network is missing, or one has no place in it.
    """
    network = getattr(monai.networks.nets, name)(**arguments).eval()
    missing, unexpected = network.load_state_dict(
        network_state(origin.card.backbone, origin.backbone), strict=False
    )
    place = _OUTPUT[name]
    state = network.state_dict()
    given = {state[n].data_ptr() for n in set(state) - set(missing)}
    # DynUNet holds its blocks again under a second name.
    odd = [n for n in missing if not n.startswith(place) and state[n].data_ptr() not in given]
    if odd or unexpected:
        raise SitusError(f"MONAI's {name} and the backbone differ in {[*odd, *unexpected][:3]}")
    target = network.get_submodule(place)
    with torch.no_grad():
        # FlexibleUNet's layer looks at neighbours too; a 1×1 kernel is its middle.
        middle = tuple(n // 2 for n in target.kernel_size)
        target.weight.zero_()
        target.weight[(..., *middle)] = head.weight.flatten(1)
        target.bias.copy_(head.bias)
    return network


def network_arguments(config: BackboneConfig) -> tuple[str, dict[str, Any]]:
    """MONAI's class and its arguments for a backbone, JSON-able.

    Raises:
        SitusError: For a backbone that MONAI has no class for.
    """
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
            "use_v2": swin.use_v2,
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
