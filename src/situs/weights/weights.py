"""Weights on disk: safetensors with a JSON card, and a ledger of what was loaded from them.

Nothing is unpickled, here or anywhere else in situs.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load, save, save_file
from torch import Tensor, nn

from situs.backbones import Backbone, BackboneConfig, backbone_class, build
from situs.config import Config, validate
from situs.errors import ConfigError, TransferError
from situs.files import file_sha256, parse_json, sha256, write_files, writing
from situs.made import beside_the_point
from situs.version import __version__
from situs.weights.hub import fetch, is_hub_name
from situs.weights.ledger import Beginning, Ledger, fill, left_out, unlacking

CARD = "card.json"
MATCH_REQUIRED = 0.9
"""Least share of the encoder's parameters that must come from the file."""

_PLACES = ("", "checkpoints/best", "checkpoints/last", "model")
"""Where a weights folder is looked for inside a run or a result, in this order."""


class Card(Config):
    """What must be known to use weights correctly.

    Attributes:
        backbone: Network and size; :func:`situs.backbones.build` makes it again.
        method: Pretext task, or ``"none"``; a composition is written ``"spatial+s2dc"``.
        preprocessing: The rules (orientation, spacing in mm, intensities) that the scans went
            through; new scans must go through the same.
        view_size: Voxels of a training view along each axis.
        step: Training steps taken.
        data_fingerprint: Of the store it was trained on.
        situs_version: That wrote it.
        licence: Of the weights; empty when its owner has not said.
        decoder_trained: Whether the pretext task trained the decoder too.
        outside: What the network saw beyond a scan's border: ``"background"``, the scan's own air
            after normalisation, one value a channel (pad new scans with it too); empty in cards
            written before that was settled, whose 3D crops were padded with 0.
        source: Where imported weights come from, in words.
        lacks: Tensors that imported weights did not hold, ``"decoder.…"``: their values here are
            random, and they are not counted where it is asked how much of a network was loaded.
        began: Which weights the training began with; None for random ones.
        checksums: File name → SHA-256 of each weights file beside the card.
    """

    backbone: BackboneConfig
    method: str = "none"
    preprocessing: dict[str, Any] = Field(default_factory=dict)
    view_size: tuple[int, ...] = ()
    step: int = 0
    data_fingerprint: str = ""
    situs_version: str = __version__
    licence: str = ""
    decoder_trained: bool = False
    outside: Literal["", "background"] = ""
    source: str = ""
    lacks: tuple[str, ...] = ()
    began: Beginning | None = None
    checksums: dict[str, str] = Field(default_factory=dict)


def save_weights(
    folder: str | Path,
    backbone: Backbone,
    card: Card,
    extra: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> Path:
    """Write ``encoder.safetensors``, ``decoder.safetensors`` and ``card.json``.

    Each file appears whole or not at all, the card last; its checksums tell a reader whether
    the files belong together.

    Args:
        folder: Made if absent; other files in it stay.
        backbone: Whose weights are written.
        card: Its ``checksums`` are filled in here.
        extra: Further parts, for instance ``{"head": head.state_dict()}``.
    """
    parts = {"encoder": backbone.encoder_state(), "decoder": backbone.decoder_state()}
    blobs: dict[str, bytes] = {}
    for part, state in {**parts, **(extra or {})}.items():
        # Tensors that share memory or are strided cannot be written as they are.
        blobs[f"{part}.safetensors"] = save({k: _plain(v) for k, v in state.items()})
    checksums = {name: sha256(blob) for name, blob in blobs.items()}
    card = card.model_copy(update={"checksums": checksums})
    blobs[CARD] = (json.dumps(card.model_dump(mode="json"), indent=2) + "\n").encode()
    write_files(folder, blobs)
    return Path(folder)


def write_tensors(path: str | Path, state: Mapping[str, Tensor]) -> None:
    """Write a safetensors file whole or not at all, each tensor with memory of its own."""
    with writing(path) as part:
        save_file({name: _plain(tensor) for name, tensor in state.items()}, part)


def weights_folder(path: str | Path) -> Path:
    """The weights folder that ``path`` is or holds (a run, a result, a checkpoint).

    Args:
        path: A local path, or ``owner/name`` on the Hugging Face Hub where neither exists here.

    Raises:
        TransferError: If there is none, it cannot be fetched, or ``path`` is a file of another
            kind.
    """
    path = fetch(Path(path).as_posix()) if is_hub_name(path) else Path(path)
    best, last = path / "checkpoints" / "best", path / "checkpoints" / "last"
    if not (path / CARD).is_file() and (last / CARD).is_file() and not _whole(best):
        if (best / CARD).is_file():
            warnings.warn(f"{best} is not whole; {last} is taken", stacklevel=2)
        return last
    for place in _PLACES:
        if (path / place / CARD).is_file():
            return path / place
    if path.is_file():
        raise TransferError(
            f"{path}: situs reads weights only from a folder with {CARD} and safetensors files, "
            "never from pickled checkpoints. Give the run folder, or a folder that "
            "'situs export --to safetensors' wrote."
        )
    if not path.is_dir():
        raise TransferError(f"{path} does not exist. Give a run folder or a weights folder.")
    raise TransferError(
        f"{path} has no weights: looked for {CARD} in it and in "
        f"{', '.join(p for p in _PLACES if p)}{beside_the_point(path)}. Give a run folder or a "
        "weights folder."
    )


def _whole(folder: Path) -> bool:
    """Whether there is a card, and the files beside it are those that it describes."""
    try:
        card = load_card(folder) if (folder / CARD).is_file() else None
    except TransferError:
        card = None
    return card is not None and all(
        file_sha256(folder / name) == checksum for name, checksum in card.checksums.items()
    )


def load_card(path: str | Path) -> Card:
    """The card of a run folder or weights folder.

    Raises:
        TransferError: If there is none or it cannot be read.
    """
    file = weights_folder(path) / CARD
    try:
        values = parse_json(file.read_bytes())
    except (ValueError, OSError) as error:
        raise TransferError(f"{file} cannot be read: {error}. The copy may be damaged.") from None
    if not isinstance(values, dict):
        raise TransferError(f"{file} must hold a JSON object, got {type(values).__name__}")
    try:
        return validate(Card, values)
    except ConfigError as error:
        raise TransferError(f"{file} is not a card of situs {__version__}: {error}") from None


def load_part(path: str | Path, part: str, card: Card | None = None) -> dict[str, Tensor] | None:
    """The tensors of one part, or None where the folder has no such part.

    What an earlier version wrote with the other part (:attr:`Backbone.moved`) is found there.

    Raises:
        TransferError: If a file is damaged or does not belong to its card.
    """
    folder = weights_folder(path)
    card = card or load_card(folder)
    own = _stored(folder, part, card)
    moved = backbone_class(card.backbone.name).moved
    if own is None or not moved:
        return own

    def now(name: str, before: str) -> str:
        return next((to for prefix, to in moved.items() if name.startswith(prefix)), before)

    stored = {"encoder": _stored(folder, "encoder", card) or {}, part: own}
    return {
        name: tensor
        for before, state in stored.items()
        for name, tensor in state.items()
        if now(name, before) == part
    }


def _stored(folder: Path, part: str, card: Card) -> dict[str, Tensor] | None:
    file = folder / f"{part}.safetensors"
    if not file.is_file():
        return None
    blob = file.read_bytes()
    expected = card.checksums.get(file.name)
    if expected is not None and sha256(blob) != expected:
        raise TransferError(
            f"{file} is not the file that its {CARD} describes (checksums differ): it was "
            "changed or only partly copied. Copy the folder again."
        )
    try:
        return load(blob)
    except SafetensorError as error:
        raise TransferError(f"{file} is not a valid safetensors file: {error}") from None


def load_into(
    backbone: Backbone,
    path: str | Path,
    parts: Sequence[str] = ("encoder", "decoder"),
    allow_partial: bool = False,
) -> Ledger:
    """Fill ``backbone`` with what fits from ``path`` and give account of every tensor.

    A decoder that no pretext task trained is left out: random numbers are not worth carrying.

    Args:
        backbone: Filled in place.
        path: Run folder or weights folder.
        parts: Any of ``"encoder"`` and ``"decoder"``.
        allow_partial: Accept an encoder of which less than 90 % was matched.

    Raises:
        TransferError: If nothing fits, or too little of the encoder does.
    """
    folder = weights_folder(path)
    card = load_card(folder)
    channels = (card.backbone.in_channels, backbone.in_channels)
    modules: dict[str, nn.Module] = {"encoder": backbone.encoder, "decoder": backbone.decoder}
    entries = []
    for part in parts:
        state = load_part(folder, part, card)
        if state is None:
            entries += left_out(modules[part], part, f"no {part}.safetensors")
        elif part == "decoder" and not card.decoder_trained:
            reason = f"'{card.method}' did not train the decoder"
            entries += left_out(modules[part], part, reason)
        else:
            own = {name: t for name, t in state.items() if f"{part}.{name}" not in card.lacks}
            entries += unlacking(fill(modules[part], own, part, channels), card.lacks)
    ledger = Ledger(source=str(path), entries=tuple(entries))
    _insist(ledger, parts, allow_partial, card)
    return ledger


def beginning(path: str | Path, ledger: Ledger) -> Beginning:
    """What is kept of the weights that a training begins with.

    Args:
        path: What was given to :func:`load_into`.
        ledger: What it returned.
    """
    folder = weights_folder(path)
    card = load_card(folder)
    parts = list(dict.fromkeys(entry.part for entry in ledger.entries))
    files = {part: folder / f"{part}.safetensors" for part in parts}
    return Beginning(
        name=str(path) if is_hub_name(path) else Path(path).resolve().name,
        sha256={part: file_sha256(file) for part, file in files.items() if file.is_file()},
        method=card.method,
        step=card.step,
        data_fingerprint=card.data_fingerprint,
        shares={part: ledger.share(part) for part in parts},
        tensors={
            part: dict(Counter(e.status for e in ledger.entries if e.part == part))
            for part in parts
        },
        not_loaded=tuple(ledger.problems(len(ledger.entries))),
        began=card.began,
    )


def load_encoder(run_or_path: str | Path) -> Backbone:
    """The backbone of a run (its best checkpoint, else its last) or of a weights folder.

    Args:
        run_or_path: Also ``"owner/name"`` on the Hugging Face Hub (the extra ``hub``), where no
            local folder is called so.

    Returns:
        The network in ``eval`` mode on the CPU. Its ``encode`` gives the multi-scale features.
        The decoder is filled too, trained or not, so that the result is always the same.

    Raises:
        TransferError: If the weights are absent, damaged, or not those of their own card.
    """
    folder = weights_folder(run_or_path)
    card = load_card(folder)
    backbone = build(card.backbone, trusted=False)
    for part, module in (("encoder", backbone.encoder), ("decoder", backbone.decoder)):
        state = load_part(folder, part, card)
        if state is None and part == "decoder":
            continue
        if state is None:
            raise TransferError(f"{folder} has no encoder.safetensors; copy the folder again")
        entries = fill(module, state, part, (card.backbone.in_channels,) * 2)
        ledger = Ledger(source=str(folder), entries=tuple(entries))
        if any(e.status != "loaded" for e in entries):
            lines = "\n  ".join(ledger.problems())
            raise TransferError(f"{folder}: weights and card disagree:\n  {lines}")
    return backbone.eval()


def _insist(ledger: Ledger, parts: Sequence[str], allow_partial: bool, card: Card) -> None:
    if ledger.empty:
        wrong = "none of the weights fit this network"
    elif "encoder" in parts and ledger.encoder_share < MATCH_REQUIRED and not allow_partial:
        wrong = (
            f"only {100 * ledger.encoder_share:.1f} % of the encoder's parameters were matched, "
            f"{100 * MATCH_REQUIRED:.0f} % are required"
        )
    else:
        return
    backbone = card.backbone
    lines = "\n  ".join(ledger.problems())
    raise TransferError(
        f"{ledger.source}: {wrong}. The weights are of '{backbone.name}' "
        f"({backbone.spatial_dims}D, options {backbone.options}); build the same network"
        f"{'' if ledger.empty else ', or allow a partial match'}:\n  {lines}"
    )


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", copy=True).contiguous()
