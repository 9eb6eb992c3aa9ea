"""Weights outside a run: card, ledger, load and save."""

from situs.weights.ledger import Beginning
from situs.weights.weights import (
    Card,
    beginning,
    load_card,
    load_encoder,
    load_into,
    load_part,
    save_weights,
    weights_folder,
    write_tensors,
)

__all__ = [
    "Beginning",
    "Card",
    "beginning",
    "load_card",
    "load_encoder",
    "load_into",
    "load_part",
    "save_weights",
    "weights_folder",
    "write_tensors",
]
