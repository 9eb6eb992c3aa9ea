"""``situs replay``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from situs.cli import app
from situs.cli.console import Json, out, print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from situs.training.offending import Found


@app.command()
def replay(
    folder: Annotated[
        Path, typer.Argument(help="The run or result that stopped.", metavar="RUN|RESULT")
    ],
    json: Json = False,
) -> None:
    """Take the step again whose loss or gradient was not finite, and say where it began.

    Example: `situs replay runs/first`

    Taken on the CPU from the batch and the state that were kept, in float32 and with the run's
    precision; nothing is changed.
    """
    from situs.pretraining.replay import replay_pretraining
    from situs.training.offending import load_offending
    from situs.transfer.replay import replay_finetuning

    kept = load_offending(folder)
    found = (replay_pretraining if kept["stage"] == "pretrain" else replay_finetuning)(kept)
    if json:
        print_json(
            {
                "step": kept["step"],
                "term": kept["term"],
                "precision": kept["precision"],
                "scans": kept["scans"],
                "found": [asdict(one) for one in found],
                "told": told_of(found),
            }
        )
        return
    lines = [f"step {kept['step']} stopped: '{kept['term']}' was not finite"]
    for one in found:
        first = f"; first {one.tensor}" if one.tensor else ""
        said = "everything is finite" if one.term is None else f"'{one.term}' is not finite{first}"
        of = f" (sample of {', '.join(one.scans)})" if one.scans else ""
        lines.append(f"in {one.precision}: {said}{of}")
    for line in [*lines, told_of(found)]:
        out.print(line, markup=False, highlight=False, soft_wrap=True)


def told_of(found: "Sequence[Found]") -> str:
    """What to do about it."""
    exact, own = found[0], found[-1]
    if own.term is None and exact.term is None:
        return (
            "The step is finite on this machine: the device or its memory gave it, or other "
            "processes of the run. Resume the run; look at the device if it happens again."
        )
    if exact.term is None:
        return f"Only {own.precision} gives it: resume with --precision 32, or a lower lr."
    if exact.scans:
        return f"Look at {', '.join(exact.scans)} with 'situs scan', and leave it out if need be."
    return "No single scan gives it: the weights have grown too large. Take a lower lr."
