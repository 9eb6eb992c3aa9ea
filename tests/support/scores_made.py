"""A score to begin with."""

from __future__ import annotations

from situs.observation import Score


def score(**changes: object) -> Score:
    """An error in mm beside guessing and the best constant."""
    fields: dict[str, object] = {
        "name": "gap_mae",
        "value": 9.31,
        "unit": "mm",
        "better": "lower",
        "chance": 44.0,
        "constant": 31.2,
        "label": "gap error",
    }
    return Score(**(fields | changes))  # type: ignore[arg-type]
