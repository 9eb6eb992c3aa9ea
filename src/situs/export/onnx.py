"""``--to onnx``: the encoder as an ONNX graph, or a fine-tuned model with a runner.

An encoder's outputs are its features at every scale. A fine-tuned model gives logits; beside it
stands ``run.py``, which applies it to whole scans with numpy and onnxruntime alone.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor, nn

from situs.backbones import Backbone
from situs.errors import SitusError, require
from situs.export import onnx_runner
from situs.export.checks import insist_same, probe_image
from situs.export.export import Origin, Written
from situs.files import write_file, write_json
from situs.transfer.model import TASK, Model
from situs.transfer.networks import Classifier, Segmenter, pooled

_FREE_SIZE = ("cnn", "resnet_unet")
"""Backbones that torch can trace for any size of image; SwinUNETR's windows and the pooling of
nnU-Net's skips bind the graph to one."""


class _Encoder(nn.Module):
    """The encoder as a network of its own."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone.encode(image))


class _Model(nn.Module):
    """A fine-tuned network."""

    def __init__(self, network: Segmenter | Classifier) -> None:
        super().__init__()
        self.backbone, self.head = network.backbone, network.head
        self.segments = isinstance(network, Segmenter)

    def forward(self, image: Tensor) -> tuple[Tensor]:
        features = self.backbone.encode(image)
        found = self.backbone.decode(features) if self.segments else pooled(features)
        return (self.head(found),)


def write(origin: Origin, out: Path) -> Written:
    """Write ``encoder.onnx`` and ``card.json``, or of a fine-tuned model ``model.onnx``.

    The graph takes any batch size, and any size of image where the network does. A model comes
    with ``task.json`` and ``run.py``.

    Raises:
        SitusError: Where onnx, onnxscript or onnxruntime are not installed, or the graph does
            not compute the same.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, "onnx")
    if (origin.weights / TASK).is_file():
        return _write_model(origin, out)
    config, backbone = origin.card.backbone, origin.backbone
    free = config.name in _FREE_SIZE
    view = origin.card.view_size
    image = probe_image(backbone)
    if not free and len(view) == backbone.spatial_dims:
        backbone.check_size(view)
        image = torch.randn(1, backbone.in_channels, *view)
    file = out / "encoder.onnx"
    names = [f"scale_{scale}" for scale in range(len(backbone.channels))]
    _export(_Encoder(backbone), image, names, file, free)
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


def _write_model(origin: Origin, out: Path) -> Written:
    """A fine-tuned model, and the runner that applies it."""
    model = Model.load(origin.weights)
    size = model.task.patch_size
    image = torch.randn(1, origin.in_channels, *size, generator=torch.Generator().manual_seed(0))
    file = out / "model.onnx"
    free = origin.card.backbone.name in _FREE_SIZE
    _export(_Model(model.network), image, ["logits"], file, free)
    write_json(out / "card.json", origin.card.model_dump(mode="json"), indent=1)
    write_json(out / TASK, model.task.model_dump(mode="json"))
    write_file(out / "run.py", Path(onnx_runner.__file__).read_text(encoding="utf-8"))
    difference = insist_same(
        lambda x: [model.network(x)],
        _runtime(file),
        image.repeat(3, *[1] * (image.ndim - 1)),
        "ONNX",
    )
    # Whole scans, a little larger than a window: windows, flips and their weights agree too.
    volume = torch.randn(
        origin.in_channels,
        *(n + 3 for n in model.task.framing.in_volume(size)),
        generator=torch.Generator().manual_seed(1),
    )
    least = tuple(volume.flatten(1).min(1).values.tolist())
    insist_same(
        lambda x: [torch.from_numpy(model.of_image(x, least))],
        lambda x: [torch.from_numpy(onnx_runner.Model(out).probabilities(x.numpy()))],
        volume,
        "ONNX",
    )
    any_size = "any size that the network takes" if free else "×".join(map(str, size))
    return Written(
        f"onnxruntime computes the same logits (relative difference {difference:.0e}), and run.py "
        "the same probabilities of a scan",
        "# python FOLDER/run.py scan.npy labels.npy   (C, X, Y, Z) towards R, A, S, in HU\n"
        "import onnxruntime\n"
        "session = onnxruntime.InferenceSession('FOLDER/model.onnx')\n"
        f"(logits,) = session.run(None, {{'image': image}})  # (B, {origin.in_channels}, "
        f"*spatial) float32, {any_size}",
    )


def _export(
    network: nn.Module, image: Tensor, outputs: Sequence[str], file: Path, free: bool
) -> None:
    """Trace and write a graph for any number of images.

    Args:
        network: Gives a tuple of tensors.
        image: One that it takes, ``(1, C, *spatial)``.
        outputs: Names of what it gives.
        file: To write.
        free: Whether the size of images is free as well.

    Raises:
        SitusError: If torch cannot write it.
    """
    image = image.repeat(2, *[1] * (image.ndim - 1))
    dynamic = torch.export.Dim.DYNAMIC
    axes = {0: dynamic}
    if free:
        axes |= {axis: dynamic for axis in range(2, image.ndim)}
    notes = logging.getLogger("torch.onnx")
    level = notes.level
    try:
        with warnings.catch_warnings(), ExitStack() as stack:
            # The exporter's notes on its own internals, and on packages that it does not need.
            warnings.simplefilter("ignore")
            notes.setLevel(logging.ERROR)
            # What refuses other sizes in words does not trace.
            stack.enter_context(patch.object(Backbone, "check_size", lambda *_: None))
            program = torch.onnx.export(
                network.eval(),
                (image,),
                dynamo=True,
                dynamic_shapes=(axes,),
                input_names=["image"],
                output_names=list(outputs),
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
