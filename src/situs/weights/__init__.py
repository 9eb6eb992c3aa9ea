"""Weights outside a run: card, ledger, load and save."""

from situs.weights.weights import (
    Card,
    load_card,
    load_encoder,
    load_into,
    load_part,
    save_weights,
    weights_folder,
    write_tensors,
)

__all__ = [
    "Card",
    "load_card",
    "load_encoder",
    "load_into",
    "load_part",
    "save_weights",
    "weights_folder",
    "write_tensors",
]
