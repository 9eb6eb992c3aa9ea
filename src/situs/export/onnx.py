"""``--to onnx``: the encoder as an ONNX graph, its features at every scale as outputs."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from situs.backbones import Backbone
from situs.errors import SitusError, require
from situs.export.checks import insist_same, probe_image
from situs.export.export import Origin, Written
from situs.files import write_json

_FREE_SIZE = ("cnn", "resnet_unet")
"""Backbones that torch can trace for any size of image; SwinUNETR's windows and the pooling of
nnU-Net's skips bind the graph to one."""


class _Encoder(nn.Module):
    """The encoder, without the size check, which does not trace."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.encoder = backbone.encoder

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.encoder(image))


def write(origin: Origin, out: Path) -> Written:
    """Write ``encoder.onnx`` and ``card.json``.

    The graph takes any batch size, and any size of image where the network does.

    Raises:
        SitusError: Where onnx, onnxscript or onnxruntime are not installed, or the graph does
            not compute the same.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "onnx")
    config, backbone = origin.card.backbone, origin.backbone
    free = config.name in _FREE_SIZE
    view = origin.card.view_size
    image = probe_image(backbone)
    if not free and len(view) == backbone.spatial_dims:
        backbone.check_size(view)
        image = torch.randn(1, backbone.in_channels, *view)
    file = out / "encoder.onnx"
    _export(backbone, image.repeat(2, *[1] * (image.ndim - 1)), file, free)
    write_json(out / "card.json", origin.card.model_dump(mode="json"), indent=1)

    other = image.repeat(3, 1, *[2 if free else 1] * backbone.spatial_dims)
    difference = insist_same(backbone.encode, _runtime(file), other, "ONNX")
    size = "any size" if free else "×".join(map(str, image.shape[2:]))
    return Written(
        f"onnxruntime computes the same features (relative difference {difference:.0e}) for "
        f"another batch size{' and another image size' if free else ''}",
        "import onnxruntime\n"
        "session = onnxruntime.InferenceSession('FOLDER/encoder.onnx')\n"
        f"features = session.run(None, {{'image': image}})  # (B, {backbone.in_channels}, "
        f"*spatial) float32, {size}",
    )


def _export(backbone: Backbone, image: Tensor, file: Path, free: bool) -> None:
    dynamic = torch.export.Dim.DYNAMIC
    axes = {0: dynamic}
    if free:
        axes |= {axis: dynamic for axis in range(2, image.ndim)}
    notes = logging.getLogger("torch.onnx")
    level = notes.level
    try:
        with warnings.catch_warnings():
            # The exporter's notes on its own internals, and on packages that it does not need.
            warnings.simplefilter("ignore")
            notes.setLevel(logging.ERROR)
            program = torch.onnx.export(
                _Encoder(backbone).eval(),
                (image,),
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=["image"],
                output_names=[f"scale_{scale}" for scale in range(len(backbone.channels))],
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise SitusError(f"torch cannot write this network as ONNX: {error}") from None
    finally:
        notes.setLevel(level)
    if program is None:
        raise SitusError("torch wrote no ONNX graph")
    program.save(file)


def _runtime(file: Path) -> Callable[[Tensor], Sequence[Tensor]]:
    import onnxruntime  # noqa: PLC0415 - an extra

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> list[Tensor]:
        return [torch.from_numpy(o) for o in session.run(None, {"image": image.numpy()})]

    return run
