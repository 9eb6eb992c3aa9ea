"""``situs finetune``, ``situs predict`` and ``situs probe``."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from situs.cli import app
from situs.cli.console import (
    Json,
    Overwrite,
    Quiet,
    bar,
    err,
    out,
    out_folder,
    print_json,
    print_remedies,
)
from situs.cli.settings import ConfigFile, Given, Set, settled, takes_settings
from situs.cli.tables import finetuned, probed
from situs.errors import ConfigError
from situs.ranks import is_first


@app.command()
@takes_settings("finetune")
def finetune(
    given: Given,
    config: ConfigFile = None,
    settings: Set = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the fine-tuning in this result folder.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Carry an encoder over to a task with few labels, and score it on held-out cases.

    Example: `situs finetune --data DATASET --init runs/first --labels 4 --out results/first`

    and beside it, from scratch: `situs finetune --data DATASET --init none --labels 4 --out
    results/scratch`. Any setting can be given as `--set layer_decay=0.7`; what the data set's files
    do not say, as `--set dataset.patient='^(p[0-9]+)'` or `--set dataset.allow_unlabelled=true`.
    """
    from situs.config import load_config, read_yaml
    from situs.transfer import FinetuneConfig
    from situs.transfer import finetune as run_finetuning
    from situs.transfer.folder import begun_with

    if resume is not None and (given.get("overwrite") or config):
        raise ConfigError("--resume goes with neither --overwrite nor --config")
    values: dict[str, Any] = read_yaml(config) if config else {}
    if resume is not None:
        values = {**begun_with(resume), "out": str(resume), "overwrite": False}
    result = run_finetuning(
        load_config(FinetuneConfig, settled(values, given), settings or ()),
        resume=resume is not None,
        quiet=quiet or json,
    )
    if not is_first():
        return
    if json:
        print_json(result.model_dump(mode="json"))
        return
    out.print(finetuned(result))


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="A result folder of 'situs finetune'.")],
    paths: Annotated[list[Path], typer.Argument(help="Scans, or folders of scans.")],
    folder: Annotated[
        Path, typer.Option("--out", callback=out_folder, help="Where predictions are written.")
    ],
    ensemble: Annotated[
        list[Path] | None,
        typer.Option(help="Another result folder, whose probabilities are averaged in; repeat."),
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write those of each class as NIfTI, too.")
    ] = False,
    dicom_seg: Annotated[
        bool, typer.Option("--dicom-seg", help="Write DICOM-SEG of DICOM series, too.")
    ] = False,
    shard: Annotated[
        str | None, typer.Option(metavar="K/N", help="Take every N-th scan, from the K-th.")
    ] = None,
    settings: Set = None,
    overwrite: Overwrite = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on: skip scans that --out has predictions of.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Apply a fine-tuned model to new scans; segmentations keep each scan's geometry.

    Example: `situs predict results/first new-scans/ --out predictions`

    A model of several channels takes them from one file, or from files NAME_0000, NAME_0001, ….
    `--set overlap=0.75`, `--set flip_axes=[0]` (left-right) and `--set patch_size=[96,96,96]`
    change how windows are laid and averaged. Jobs of an array say `--shard 2/8 --resume`.

    Exit code 1 says that some scans were refused; they are named with the reason.
    """
    from situs.config import load_config
    from situs.transfer.ensemble import PredictSettings
    from situs.transfer.predict import predict as run_prediction

    chosen = load_config(PredictSettings, {}, settings or ())
    with bar("predicting", quiet or json) as tell:
        result = run_prediction(
            [model, *(ensemble or [])],
            paths,
            folder,
            overwrite,
            resume=resume,
            settings=chosen,
            probabilities=probabilities,
            dicom_seg=dicom_seg,
            shard=_shard(shard),
            progress=tell,
        )
    refused = [
        {"scan": e.path.name, "reason": e.reason, "detail": e.detail} for e in result.refused
    ]
    if json:
        print_json(
            {"out": folder, "scans": result.rows, "skipped": result.skipped, "refused": refused}
        )
    else:
        if result.rows and not quiet:
            out.print(_table(result.rows))
        for error in result.refused:
            err.print(f"[yellow]refused[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        print_remedies(Counter(error.reason for error in result.refused), err)
        before = f", {len(result.skipped)} done before" if result.skipped else ""
        out.print(
            f"{len(result.rows)} predicted{before}, {len(refused)} refused; {folder}",
            markup=False,
            soft_wrap=True,
        )
    if refused:
        raise typer.Exit(1)


@app.command()
@takes_settings("probe")
def probe(
    given: Given,
    run: Annotated[Path, typer.Argument(help="A run or weights folder.")],
    data: Annotated[Path, typer.Option(help="A labelled data set.")],
    settings: Set = None,
    json: Json = False,
) -> None:
    """Ask how well labels can be read off frozen features, beside random weights and chance.

    Example: `situs probe runs/first --data DATASET --labels 10`

    Where the files do not say which scans are one patient's: `--set dataset.patient='^(p[0-9]+)'`.
    """
    from situs.config import load_config
    from situs.transfer.probe import ProbeSettings
    from situs.transfer.probe import probe as run_probe

    result = run_probe(run, data, load_config(ProbeSettings, given, settings or ()))
    if json:
        print_json(result.model_dump(mode="json"))
    else:
        out.print(probed(result))


def _shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    number, _, total = text.partition("/")
    if not (number.isdigit() and total.isdigit()):
        raise ConfigError(f"--shard must be K/N, such as 2/8, got '{text}'")
    return int(number), int(total)


def _table(rows: list[dict[str, str | float]]) -> Table:
    shown = [key for key in rows[0] if key not in ("scan", "series", "status", "content")]
    table = Table(box=None)
    for key in shown:
        table.add_column(
            escape(key), justify="right" if isinstance(rows[0][key], float) else "left"
        )
    for row in rows:
        cells = (row[key] for key in shown)
        table.add_row(*(f"{v:.3f}" if isinstance(v, float) else escape(v) for v in cells))
    return table
