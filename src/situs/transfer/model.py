"""A fine-tuned model: made from weights or from nothing, saved, loaded, applied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from situs.backbones import BackboneConfig, backbone_class, build
from situs.config import Config, validate
from situs.errors import TransferError
from situs.files import read_json, write_json
from situs.store import Prepared, Preprocessing, restore_largest
from situs.store.intensity import Kind as IntensityKind
from situs.transfer import windows
from situs.transfer.networks import Classifier, Segmenter
from situs.transfer.patches import Framing
from situs.weights import Card, load_card, load_into, load_part, save_weights, weights_folder
from situs.weights.ledger import Ledger, fill

TASK = "task.json"
Kind = Literal["segmentation", "classification"]


class Task(Config):
    """What a model predicts and how it is applied; stands beside its weights.

    Attributes:
        kind: Segmentation or classification.
        classes: Label value → name, by value; the network's outputs are in this order.
        multi_label: Whether a scan can have several classes.
        patch_size: Voxels along each of the network's axes.
        slice_axis: For 2D networks, the array axis that slices are perpendicular to.
        overlap: Of neighbouring windows.
        flip_axes: Volume axes over whose flips predictions are averaged.
        preprocessing: What scans go through first, spacing included.
        modalities: Of each channel in all cases of the fine-tuning, None where it was not known
            or differed; a file that does not tell, or tells otherwise, is read as theirs were.
        intensity: How each channel's values were read in all cases; None where that differed.
    """

    kind: Kind
    classes: dict[int, str]
    multi_label: bool = False
    patch_size: tuple[int, ...]
    slice_axis: int | None = None
    overlap: float = 0.5
    flip_axes: tuple[int, ...] = ()
    preprocessing: Preprocessing
    modalities: tuple[str | None, ...] = ()
    intensity: tuple[IntensityKind | None, ...] = ()

    @property
    def framing(self) -> Framing:
        """How the network sees a volume."""
        return Framing(self.patch_size, self.slice_axis)


@dataclass
class Model:
    """A network with its task and card.

    Attributes:
        network: Backbone and head.
        task: What it predicts.
        card: Of the backbone.
    """

    network: Segmenter | Classifier
    task: Task
    card: Card

    def __repr__(self) -> str:
        names = ", ".join(self.task.classes.values())
        return f"Model({self.task.kind} of {names}; {self.card.backbone.name})"

    def probabilities(self, prepared: Prepared) -> npt.NDArray[np.float32]:
        """Class probabilities: ``(K, X, Y, Z)`` on the prepared grid, or ``(K,)`` of the scan."""
        return self.of_image(torch.from_numpy(prepared.array), prepared.background)

    def of_image(self, image: Tensor, background: Sequence[float]) -> npt.NDArray[np.float32]:
        """Class probabilities of a prepared image.

        Args:
            image: ``(C, X, Y, Z)``.
            background: What lies outside the scan, one value a channel.

        Returns:
            As :meth:`probabilities`.
        """
        task = self.task
        self.network.eval()
        if task.kind == "segmentation":
            values = windows.segment(
                self.network, image, task.framing, task.overlap, task.flip_axes, background
            )
        else:
            values = windows.classify(
                self.network,
                image,
                task.framing,
                task.multi_label,
                task.overlap,
                task.flip_axes,
                background,
            )
        return np.asarray(values.numpy(), dtype=np.float32)

    def segment(self, prepared: Prepared) -> npt.NDArray[np.int16]:
        """Label values ``(X, Y, Z)`` on the scan's own grid."""
        values = np.array(list(self.task.classes), dtype=np.int16)
        winner = restore_largest(self.probabilities(prepared), prepared)
        labels: npt.NDArray[np.int16] = values[winner]
        return labels

    def to_device(self) -> Model:
        """Move the network to a GPU where there is one; Lightning leaves it on the CPU."""
        self.network.to("cuda" if torch.cuda.is_available() else "cpu")
        return self

    def save(self, folder: Path) -> None:
        """Write weights, head, card and task."""
        head = {"head": self.network.head.state_dict()}
        save_weights(folder, self.network.backbone, self.card, extra=head)
        write_json(folder / TASK, self.task.model_dump(mode="json"))

    @classmethod
    def load(cls, path: str | Path) -> Model:
        """Read a result folder or its ``model`` folder.

        Raises:
            TransferError: If it is no fine-tuned model, or damaged.
        """
        folder = weights_folder(path)
        if not (folder / TASK).is_file():
            raise TransferError(
                f"{path} holds an encoder, but no task to predict (no {TASK}); fine-tune it "
                "first with 'situs finetune'"
            )
        task = read_task(folder)
        card = load_card(folder)
        backbone_class(card.backbone.name, trusted=False)
        network = assemble(card.backbone, task.kind, len(task.classes))
        parts: dict[str, nn.Module] = {
            "encoder": network.backbone.encoder,
            "decoder": network.backbone.decoder,
            "head": network.head,
        }
        entries = []
        for part, module in parts.items():
            state = load_part(folder, part, card)
            entries += fill(module, state or {}, part, (card.backbone.in_channels,) * 2)
        ledger = Ledger(source=str(folder), entries=tuple(entries))
        if ledger.problems():
            raise TransferError(
                f"{folder}: weights and card disagree:\n  " + "\n  ".join(ledger.problems())
            )
        network.eval()
        return cls(network, task, card)


def assemble(backbone: BackboneConfig, kind: Kind, classes: int) -> Segmenter | Classifier:
    """A network with random weights."""
    make = Segmenter if kind == "segmentation" else Classifier
    return make(build(backbone), classes)


def initialise(
    network: Segmenter | Classifier, init: str, load_decoder: bool, allow_partial: bool
) -> tuple[Ledger, list[nn.Module]]:
    """Fill a network's backbone from weights.

    Returns:
        The ledger, and the modules that are now pretrained.

    Raises:
        TransferError: If too little fits.
    """
    wanted = isinstance(network, Segmenter) and load_decoder
    parts = ("encoder", "decoder") if wanted else ("encoder",)
    ledger = load_into(network.backbone, init, parts, allow_partial)
    pretrained: list[nn.Module] = [network.backbone.encoder]
    if ledger.share("decoder") > 0:
        pretrained.append(network.backbone.decoder)
    return ledger, pretrained


def starting_point(
    init: str, backbone: BackboneConfig | None, channels: int
) -> tuple[BackboneConfig, Card]:
    """The backbone to build for scans with ``channels`` channels, and the card it comes from."""
    if init == "none":
        config = (backbone or BackboneConfig()).model_copy(update={"in_channels": channels})
        return config, Card(backbone=config)
    card = load_card(init)
    backbone_class(card.backbone.name, trusted=False)
    return card.backbone.model_copy(update={"in_channels": channels}), card


def read_task(folder: Path) -> Task:
    """What a fine-tuned model is asked, from its folder.

    Raises:
        ConfigError: If the file is another one's.
        SitusError: If it is damaged.
    """
    return validate(Task, read_json(folder / TASK, "restore it from a copy, or fine-tune again"))
