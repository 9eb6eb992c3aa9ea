"""From a checkpoint of another tool to a weights folder of situs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from situs.backbones import Backbone, BackboneConfig, build
from situs.config import unknown_name, validate
from situs.errors import SitusError, TransferError
from situs.files import file_sha256, write_json, writing_folder
from situs.store import Preprocessing
from situs.weights.foreign import nnunet, swin, transformer
from situs.weights.foreign.found import Found
from situs.weights.foreign.reading import read_checkpoint
from situs.weights.ledger import Ledger, LedgerEntry, fill
from situs.weights.weights import MATCH_REQUIRED, Card, save_weights

_FINDERS: tuple[Callable[[Mapping[str, Tensor], Mapping[str, Any]], Found | None], ...] = (
    swin.find,
    nnunet.find,
    transformer.find,
)
_LAYOUTS = ("3dino", "dinov2", "monai", "nnssl", "nnunet", "suprem", "swin_unetr", "voco")
LEDGER = "ledger.json"
_ABSENT = "not in the file"


@dataclass(frozen=True)
class Imported:
    """Weights that were imported.

    Attributes:
        path: The weights folder.
        layout: Whose checkpoint it was.
        card: Its card.
        ledger: What became of every tensor.
        share: Part of the source's numbers (heads aside) that found a place, 0 to 1.
        notes: What a user should know.
    """

    path: Path
    layout: str
    card: Card
    ledger: Ledger
    share: float
    notes: tuple[str, ...]


def layouts() -> list[str]:
    """Layouts that :func:`import_weights` knows."""
    return sorted(_LAYOUTS)


def import_weights(
    checkpoint: str | Path,
    out: str | Path,
    *,
    layout: str = "auto",
    licence: str = "",
    source: str = "",
    preprocessing: Mapping[str, Any] | None = None,
    allow_partial: bool = False,
    overwrite: bool = False,
) -> Imported:
    """Make a weights folder from a checkpoint of another tool; :func:`layouts` lists them.

    Nothing in the checkpoint is run. Names and axes are mapped to situs's; kernels of nnU-Net are
    turned. What the source does not hold stays random and is listed in the card as lacking.

    Args:
        checkpoint: A ``.pt``, ``.pth`` or ``.safetensors`` file.
        out: Folder to write.
        layout: One of :func:`layouts` that the file must be of, or ``"auto"``.
        licence: An SPDX identifier; what the authors state where empty.
        source: Where the file comes from; what is known of the layout where empty.
        preprocessing: Settings that take the place of what is known of the layout.
        allow_partial: Accept a source of which less than 90 % found a place.
        overwrite: Replace what is in ``out``, if all of it is written anew.

    Raises:
        ConfigError: For an unknown layout, or preprocessing that cannot be used.
        SitusError: If ``out`` is not empty.
        TransferError: If the file cannot be read safely, is of no known layout or of another one
            than asked for, or does not fit the network that it names.
    """
    if layout not in ("auto", *_LAYOUTS):
        raise unknown_name("layout", layout, ["auto", *layouts()])
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())) and not overwrite:
        raise SitusError(f"{out} is not empty; choose another folder, or say --overwrite")
    found = _find(Path(checkpoint), layout)
    backbone = _seeded(found.config)
    entries = _fill(backbone, found)
    ledger = Ledger(source=Path(checkpoint).name, entries=tuple(entries))
    share = _share(entries)
    if share < MATCH_REQUIRED and not allow_partial:
        lines = "\n  ".join(ledger.problems())
        raise TransferError(
            f"{checkpoint}: only {100 * share:.1f} % of its numbers found a place in "
            f"'{found.config.name}' {found.config.options}, {100 * MATCH_REQUIRED:.0f} % are "
            f"required; this may be another version of the layout:\n  {lines}"
        )
    known = {"spacing": "native", **found.preprocessing, **(preprocessing or {})}
    lacks = tuple(f"{e.part}.{e.name}" for e in entries if e.reason == _ABSENT)
    decoder = [e for e in entries if e.part == "decoder" and e.status == "loaded"]
    digest = file_sha256(checkpoint, digits=16)
    card = Card(
        backbone=found.config,
        method="none",
        preprocessing=validate(Preprocessing, known).of_voxels(),
        licence=licence or found.licence,
        decoder_trained=bool(decoder),
        source=f"{source or found.source}; file SHA-256 {digest}…",
        lacks=lacks,
    )
    with writing_folder(out) as part:
        save_weights(part, backbone, card)
        write_json(part / LEDGER, ledger.model_dump(mode="json"))
    return Imported(out, found.layout, card, ledger, share, found.notes)


def _find(path: Path, layout: str) -> Found:
    state, rest = read_checkpoint(path)
    found = next((f for f in (find(state, rest) for find in _FINDERS) if f is not None), None)
    if found is None:
        raise TransferError(
            f"{path} is of no layout that situs knows ({', '.join(layouts())}); its tensors are "
            f"called {', '.join(list(state)[:4])}, …"
        )
    # A bare SwinUNETR does not tell whose it is; the user may.
    if layout not in ("auto", found.layout):
        if {layout, found.layout} <= {"monai", "suprem", "swin_unetr", "voco"}:
            return swin.told(found, layout)
        raise TransferError(f"{path} is of the layout '{found.layout}', not '{layout}'")
    return found


def _seeded(config: BackboneConfig) -> Backbone:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(config)


def _fill(backbone: Backbone, found: Found) -> list[LedgerEntry]:
    """Fill both parts, each with what bears its names, and give account of the rest."""
    entries: list[LedgerEntry] = []
    placed: set[str] = set()
    for part, module in (("encoder", backbone.encoder), ("decoder", backbone.decoder)):
        full = {name: f"{part}.{name}" for name in module.state_dict()}
        named = {n: f if f in found.state else n for n, f in full.items()}
        own = {name: found.state[n] for name, n in named.items() if n in found.state}
        placed |= {named[name] for name in own}
        filled = fill(module, own, part, (backbone.in_channels,) * 2)
        entries += [_plain_norm(entry, found) for entry in filled]
    rest = {name: "not in the network" for name in found.state if name not in placed}
    for name, reason in {**rest, **found.other}.items():
        count = found.state[name].numel() if name in found.state else 0
        told = {"part": "other", "name": name, "status": "skipped", "count": count}
        entries.append(validate(LedgerEntry, {**told, "wanted": False, "reason": reason}))
    return entries


def _plain_norm(entry: LedgerEntry, found: Found) -> LedgerEntry:
    """MONAI normalises without weights by default, which is weights of 1 and biases of 0."""
    if entry.reason != _ABSENT:
        return entry
    head, _, leaf = entry.name.rpartition(".")
    bare = not any(".norm" in n for n in found.state if not n.startswith("swinViT."))
    block = entry.name.partition(".")[0]
    there = any(n.startswith(f"{block}.") for n in found.state)
    if found.config.name == "swin_unetr" and bare and there and "norm" in head.rpartition(".")[2]:
        one = "1" if leaf == "weight" else "0"
        return entry.model_copy(update={"status": "loaded", "reason": f"{one} in the source"})
    return entry


def _share(entries: Sequence[LedgerEntry]) -> float:
    """Part of the source's numbers that found a place, heads aside."""
    loaded = sum(e.count for e in entries if e.status != "skipped")
    lost = sum(
        e.count for e in entries if e.status == "skipped" and e.reason != _ABSENT and e.count
    )
    return loaded / (loaded + lost) if loaded else 0.0
