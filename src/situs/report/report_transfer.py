"""The transfer section: what the weights are worth with few labels, in numbers and pictures."""

from __future__ import annotations

from typing import Any

from situs import text
from situs.report import scene
from situs.report.figures.transfer import pair_tiles
from situs.report.folder import RunFolder, Transfer
from situs.report.sections import TaskSection, transfer_sections
from situs.report.transfers import COUNTS, compare, name_of


def transfer_section(run: RunFolder, assets: scene.Assets) -> dict[str, Any]:
    """Everything the transfer section of a page shows; ``assets`` takes its scenes' files."""
    comparisons = compare(run.transfers)
    return {
        "comparisons": comparisons,
        "pairs": [tile for c in comparisons for tile in pair_tiles(c)],
        "results": [
            _result(transfer, transfer_sections(transfer, f"{n}-{transfer.name}", assets))
            for n, transfer in enumerate(run.transfers)
        ],
    }


def _result(result: Transfer, sections: list[TaskSection]) -> dict[str, Any]:
    record = result.result
    scores = list(record.scores)
    rows = [
        (text.printable(name), [_number(s, row.get(s)) for s in scores])
        for name, row in record.classes.items()
    ]
    # The counts are sums over classes there, and the title counts the cases.
    means = {**record.scores, "cases": None}
    rows.append(("mean", [_number(s, means[s]) for s in scores]))
    start = "from scratch" if record.scratch else f"from {record.method} weights"
    tests = len(record.cases_of("test"))
    notes = []
    if record.ledger:
        from situs.weights.ledger import Ledger  # noqa: PLC0415 - imports torch

        share = Ledger.model_validate(record.ledger).encoder_share
        notes.append(f"{100 * share:.0f} % of the encoder's parameters were loaded.")
    if record.seconds:
        spent = (f"{part} {text.duration(took)}" for part, took in record.seconds.items())
        notes.append(", ".join(spent) + ".")
    return {
        "title": text.printable(
            f"{result.name}: {record.task} with {result.labelled} labelled cases, {start}, "
            f"{tests} test cases"
        ),
        "headings": [name_of(s) for s in scores],
        "rows": rows,
        "notes": notes,
        "sections": sections,
    }


def _number(score: str, value: float | None) -> str:
    return text.count(value) if value is not None and score in COUNTS else text.number(value)
