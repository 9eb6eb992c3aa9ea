"""One function for all targets; what is written is loaded back and compared before it counts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from situs.backbones import Backbone
from situs.errors import SitusError
from situs.files import writing_folder
from situs.registry import Registry
from situs.weights import Card, load_card, load_encoder, load_part, weights_folder

# target → the module whose ``write`` makes it.
_TARGETS = Registry(
    "export target",
    "situs.export",
    {
        "hub": "situs.export.hub",
        "monai": "situs.export.monai",
        "nnunet": "situs.export.nnunet",
        "onnx": "situs.export.onnx",
        "safetensors": "situs.export.plain",
    },
    ("write",),
)


@dataclass(frozen=True)
class Origin:
    """What is exported.

    Attributes:
        path: Run, result or weights folder, as named by the user.
        weights: The weights folder in it.
        card: Its card, the licence filled in.
        backbone: Its network, in ``eval`` mode.
        head: Tensors of a fine-tuned model's head, empty for an encoder.
        plan: nnU-Net's plans of the data set to fine-tune on, for the target ``nnunet``.
        configuration: In those plans; empty for 3d_fullres, or 2d for a 2D network.
        pth: Whether a pickled file is written too, for nnU-Net.
    """

    path: Path
    weights: Path
    card: Card
    backbone: Backbone
    head: Mapping[str, Tensor] = field(default_factory=dict)
    plan: Path | None = None
    configuration: str = ""
    pth: bool = False

    @property
    def in_channels(self) -> int:
        """Channels of the images."""
        return self.backbone.in_channels


@dataclass(frozen=True)
class Written:
    """What a target's ``write`` tells.

    Attributes:
        checked: How it was made sure that the files hold the same network, in one sentence.
        use: Python lines that load them.
    """

    checked: str
    use: str


@dataclass(frozen=True)
class Exported:
    """An export that was checked.

    Attributes:
        path: The folder.
        files: Names in it.
        checked: How it was made sure that the files hold the same network.
        use: Python lines that load them.
    """

    path: Path
    files: tuple[str, ...]
    checked: str
    use: str


def available() -> list[str]:
    """Names of the targets."""
    return sorted(_TARGETS.names())


def export(
    source: str | Path,
    to: str,
    out: str | Path,
    *,
    licence: str = "",
    overwrite: bool = False,
    plan: str | Path | None = None,
    configuration: str = "",
    pth: bool = False,
) -> Exported:
    """Write the backbone of a run in another framework's form.

    Nothing appears in ``out`` unless it was loaded back and gave the same features.

    Args:
        source: Run folder, result folder or weights folder.
        to: One of :func:`available`, or ``package.module:Name`` of something with ``write``.
        out: Folder to write.
        licence: Of the weights, an SPDX identifier; the card's where empty.
        overwrite: Replace what is in ``out``, if all of it is written anew.
        plan: For nnU-Net: plans of the data set to fine-tune on; a copy that builds this network
            and prepares scans as pretraining did is written beside the weights.
        configuration: In those plans; ``3d_fullres``, or ``2d`` for a 2D network, where empty.
        pth: For nnU-Net: write the pickled file that its ``-pretrained_weights`` reads.

    Raises:
        ConfigError: For an unknown target, or a plan that cannot be used.
        SitusError: If ``out`` is not empty, the target cannot hold this backbone, an optional
            package is missing, or the files do not give the same features.
    """
    write: Callable[[Origin, Path], Written] = _TARGETS.load(to).write
    if to != "nnunet" and (plan is not None or configuration or pth):
        raise SitusError("--plan, --configuration and --pth go with --to nnunet only")
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise SitusError(f"{out} is not empty; choose another folder, or say --overwrite")
    card = load_card(source)
    if licence:
        card = card.model_copy(update={"licence": licence})
    origin = Origin(
        Path(source),
        weights_folder(source),
        card,
        load_encoder(source),
        load_part(source, "head", card) or {},
        None if plan is None else Path(plan),
        configuration,
        pth,
    )
    with writing_folder(out) as part:
        written = write(origin, part)
    files = tuple(sorted(str(f.relative_to(out)) for f in out.rglob("*") if f.is_file()))
    return Exported(out, files, written.checked, written.use)
