"""``situs finetune``, ``situs predict`` and ``situs probe``."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from situs.cli import app
from situs.cli.console import Json, Quiet, err, out, out_folder, print_json, print_remedies
from situs.cli.devices import (
    AcceleratorOption,
    Compile,
    Devices,
    NumNodes,
    PrecisionOption,
    StrategyOption,
)
from situs.cli.tables import finetuned, probed
from situs.errors import ConfigError
from situs.ranks import is_first

Settings = Annotated[
    list[str] | None,
    typer.Option("--set", help="Override a setting, key.path=value; may be repeated."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in --out.")]


@app.command()
def finetune(
    data: Annotated[
        Path | None, typer.Option(help="A labelled data set (Decathlon, nnU-Net, CSV, …).")
    ] = None,
    init: Annotated[
        str | None, typer.Option(help="A run or weights folder, or 'none' for random weights.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--out", callback=out_folder, help="The result folder.")
    ] = None,
    task: Annotated[str | None, typer.Option(help="segmentation or classification.")] = None,
    labels: Annotated[
        int | None,
        typer.Option(help="Labelled cases to train on; all that are not held out by default."),
    ] = None,
    validation: Annotated[int | None, typer.Option(help="Cases for early stopping.")] = None,
    test: Annotated[
        int | None,
        typer.Option(help="Cases to score; the rest by default, or a fifth of the patients."),
    ] = None,
    test_data: Annotated[
        Path | None, typer.Option(help="A second data set of the same kind, only to score on.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Optimiser steps.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Patches a step and device.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    backbone: Annotated[str | None, typer.Option(help="Network, for --init none.")] = None,
    freeze_encoder: Annotated[
        bool | None, typer.Option("--freeze-encoder", help="Train decoder and head only.")
    ] = None,
    allow_partial: Annotated[
        bool | None,
        typer.Option("--allow-partial", help="Accept weights that fit less than 90 %."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    devices: Devices = None,
    num_nodes: NumNodes = None,
    strategy: StrategyOption = None,
    accelerator: AcceleratorOption = None,
    precision: PrecisionOption = None,
    compile: Compile = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file with settings.")] = None,
    settings: Settings = None,
    resume: Annotated[
        Path | None, typer.Option(help="Go on with the fine-tuning in this result folder.")
    ] = None,
    overwrite: Overwrite = False,
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

    if resume is not None and (overwrite or config):
        raise ConfigError("--resume goes with neither --overwrite nor --config")
    values: dict[str, Any] = read_yaml(config) if config else {}
    if resume is not None:
        values = {**read_yaml(resume / "config.yaml"), "out": str(resume), "overwrite": False}
    given = {
        "data": data,
        "init": init,
        "out": folder,
        "task": task,
        "train": labels,
        "validation": validation,
        "test": test,
        "steps": steps,
        "batch_size": batch_size,
        "devices": devices,
        "num_nodes": num_nodes,
        "strategy": strategy,
        "accelerator": accelerator,
        "precision": precision,
        "compile": compile,
        "lr": lr,
        "backbone": {"name": backbone} if backbone else None,
        "freeze_encoder": freeze_encoder,
        "allow_partial": allow_partial,
        "seed": seed,
        "overwrite": overwrite or None,
    }
    values |= {key: value for key, value in given.items() if value is not None}
    if test_data is not None:
        values["dataset"] = {**values.get("dataset", {}), "test": test_data}
    for key, option in (("data", "--data"), ("out", "--out")):
        if key not in values:
            raise ConfigError(f"{option} is missing; it can also stand in the --config file")
    result = run_finetuning(
        load_config(FinetuneConfig, values, settings or ()),
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
    settings: Settings = None,
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
    from rich.progress import Progress

    from situs.config import load_config
    from situs.transfer.ensemble import PredictSettings
    from situs.transfer.predict import predict as run_prediction

    chosen = load_config(PredictSettings, {}, settings or ())
    with Progress(console=err, transient=True, disable=quiet or json) as progress:
        bar = progress.add_task("predicting", total=None)
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
            progress=lambda done, total: progress.update(bar, completed=done, total=total),
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
def probe(
    run: Annotated[Path, typer.Argument(help="A run or weights folder.")],
    data: Annotated[Path, typer.Option(help="A labelled data set.")],
    labels: Annotated[
        int | None, typer.Option(help="Cases to learn from; half of them by default.")
    ] = None,
    test: Annotated[int | None, typer.Option(help="Cases to score; the rest by default.")] = None,
    voxels: Annotated[int, typer.Option(help="Voxels of each class drawn from each case.")] = 50,
    seed: Annotated[int, typer.Option(help="Seed of everything drawn.")] = 0,
    settings: Settings = None,
    json: Json = False,
) -> None:
    """Ask how well labels can be read off frozen features, beside random weights and chance.

    Example: `situs probe runs/first --data DATASET --labels 10`

    Where the files do not say which scans are one patient's: `--set dataset.patient='^(p[0-9]+)'`.
    """
    from situs.config import load_config
    from situs.transfer.probe import ProbeSettings
    from situs.transfer.probe import probe as run_probe

    values = {"train": labels, "test": test, "voxels_per_class": voxels, "seed": seed}
    result = run_probe(run, data, load_config(ProbeSettings, values, settings or ()))
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
