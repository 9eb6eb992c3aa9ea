"""``--to hub``: a folder in the layout of a model hub, with a model card; nothing is uploaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from situs.backbones import Backbone
from situs.errors import ConfigError, RunError
from situs.export import plain
from situs.export.export import Origin, Written
from situs.files import write_file
from situs.methods import method_class
from situs.observation import Observation, Score
from situs.store.card import data_card, table
from situs.training.run import Run
from situs.weights import Card

_PAGE = """\
---
{front}---
# {title}

{what}

Pretrained with situs {version}. `encoder.safetensors` and
`decoder.safetensors` hold the weights{decoder}; `card.json` says how scans must be prepared.

## Use

```python
import situs
from situs.store import Preprocessing, preprocess
from situs.weights import load_card

weights = "path/to/this/folder"  # or "owner/name" of this page, with huggingface_hub installed
encoder = situs.load_encoder(weights)
preprocessing = Preprocessing(**load_card(weights).preprocessing)
scan = preprocess(situs.read_scan("scan.nii.gz"), preprocessing).array  # (C, X, Y, Z) float32
```

Sizes of the input must be multiples of {divisor}.

## Network

{network}

## Preprocessing

{preprocessing}

## Training

{training}

## What it learned

{learned}

## Limits

Features for research, from the scans described above; other scanners, sequences, ages and bodies
may give others. No medical device, and not made for decisions about patients.
"""


def write(origin: Origin, out: Path) -> Written:
    """Write weights, ``card.json``, the model card ``README.md`` and the data card ``DATA.md``.

    The data card is left out where the run does not say which scans it saw.
    """
    written = plain.write(origin, out)
    write_file(out / "README.md", model_card(origin))
    run = _run(origin.path)
    # A run that was handed on may come without data.json, which names its scans.
    if run is not None and (run.path / "data.json").is_file():
        card, told = origin.card, run.data.model_dump(mode="json")
        facts = (told["records"], told["refused"], card.preprocessing, card.data_fingerprint)
        write_file(out / "DATA.md", data_card(*facts))
    return Written(
        written.checked,
        "# pip install huggingface_hub; hf upload OWNER/NAME FOLDER\n" + written.use,
    )


def model_card(origin: Origin) -> str:
    """The model card, in Markdown with YAML in front."""
    card, run = origin.card, _run(origin.path)
    front = {
        "license": card.licence.lower() or "other",
        **({} if card.licence else {"license_name": "not-stated"}),
        "library_name": "situs",
        "tags": [
            "medical-imaging",
            "self-supervised",
            f"{card.backbone.spatial_dims}d",
            card.backbone.name,
            *card.method.split("+"),
        ],
    }
    return _PAGE.format(
        front=yaml.safe_dump(front, sort_keys=False),
        title=f"{card.backbone.name}, pretrained with {card.method}",
        what="\n".join(_method_line(name) for name in card.method.split("+")),
        version=card.situs_version,
        decoder="" if card.decoder_trained else " (the decoder is not trained)",
        divisor=origin.backbone.divisor,
        network=_network(card, origin.backbone),
        preprocessing=_rows(card.preprocessing),
        training=_rows(_training(card, run)),
        learned=_learned(run),
    )


def _run(path: Path) -> Run | None:
    try:
        return Run.open(path)
    except RunError:
        return None


def _method_line(name: str) -> str:
    try:
        method = method_class(name)
    except ConfigError:
        return f"Method `{name}`."
    paper = f" ({method.paper})" if method.paper else ""
    return f"Method `{name}`: {method.title}{paper}."


def _network(card: Card, backbone: Backbone) -> str:
    count = sum(p.numel() for p in backbone.encoder.parameters())
    return _rows(
        {
            "backbone": card.backbone.name,
            "dimensions": card.backbone.spatial_dims,
            "input channels": card.backbone.in_channels,
            "encoder parameters": f"{count:,}",
            "channels of each scale": list(backbone.channels),
            "voxels a feature spans": [list(s) for s in backbone.strides],
            **card.backbone.options,
        }
    )


def _training(card: Card, run: Run | None) -> dict[str, Any]:
    rows = {
        "steps": card.step,
        "view size in voxels": list(card.view_size) or "unknown",
        "fingerprint of the data": card.data_fingerprint or "unknown",
    }
    if card.began is not None:
        rows["began with the weights of"] = card.began.said()
    if run is not None:
        known = {"scans": run.record.scans, "seed": run.record.seed}
        rows |= {key: value for key, value in known.items() if value is not None}
    return rows


def _learned(run: Run | None) -> str:
    observations = run.observations() if run is not None else []
    lines = [
        f"| {observation.method} | {_score(score)} |"
        for observation in observations
        for score in observation.scores.values()
    ]
    if not lines:
        return "No observation came with the weights."
    note = "\n\nMeasured on the training scans: none were held out."
    held = run is not None and not run.record.held_out_is_training
    head = "| method | score | value | guessing |\n| --- | --- | --- | --- |\n"
    said = "\n\nMeasured on scans that were held out of training." if held else note
    return head + "\n".join(lines) + said + _warnings(observations)


def _score(score: Score) -> str:
    chance = "" if score.chance is None else f"{score.chance:.3g} {score.unit}".strip()
    name = score.label or score.name
    return f"{name} ({score.better} is better) | {score.value:.3g} {score.unit} | {chance}"


def _warnings(observations: list[Observation]) -> str:
    warnings = [w for observation in observations for w in observation.warnings]
    return "".join(f"\n\n**Warning:** {w}" for w in warnings)


def _rows(values: dict[str, Any]) -> str:
    if not values:
        return "Unknown: the weights came without it."
    return table(values)
