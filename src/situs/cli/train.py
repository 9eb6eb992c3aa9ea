"""``situs pretrain`` and ``situs demo``."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from situs.cli import app
from situs.cli.console import Json, Quiet, out, out_folder, print_json
from situs.cli.settings import ConfigFile, Given, Set, completes_as, settled, takes_settings
from situs.cli.tables import demonstrated
from situs.errors import ConfigError
from situs.ranks import is_first


@app.command()
@takes_settings("pretrain")
def pretrain(
    given: Given,
    like_plan: Annotated[
        Path | None,
        typer.Option(help="Train the network (and spacing) of these nnU-Net plans."),
    ] = None,
    configuration: Annotated[
        str, typer.Option(help="Configuration in --like-plan; 3d_fullres by default.")
    ] = "",
    config: ConfigFile = None,
    settings: Set = None,
    resume: Annotated[
        Path | None, typer.Option(help="Continue this run to its planned end.")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="Start from the weights of this run.")] = None,
    overwrite: Annotated[bool, typer.Option(help="Delete what is in --out first.")] = False,
    report: Annotated[bool, typer.Option(help="Write the HTML report at the end.")] = True,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Pretrain an encoder on unlabelled scans.

    Example: `situs pretrain --method spatial --data STORE --out runs/first --steps 2000`

    Any setting can be given as `--set optimiser.lr=3e-4` or `--set options.view_size=[32,32,32]`;
    `situs pretrain --resume runs/first` goes on where a stopped run stood.
    """
    from situs.config import read_yaml
    from situs.pretraining.like_plan import like_plan as follow
    from situs.pretraining.pretrain import pretrain as run_pretraining
    from situs.training.run import Run

    if resume is not None:
        if init or overwrite:
            raise ConfigError("--resume goes with neither --init nor --overwrite")
        values: dict[str, Any] = {**Run.open(resume).config, "out": str(resume)}
    else:
        values = read_yaml(config) if config else {}
    values = settled(values, given)
    if like_plan is not None:
        values = follow(values, like_plan, configuration)
    mode: Literal["new", "resume", "overwrite"] = "overwrite" if overwrite else "new"
    mode = "resume" if resume else mode
    run = run_pretraining(values, mode=mode, init=init, overrides=settings or (), quiet=quiet)
    if not is_first():
        return
    _finish(run, report, json, quiet)


@app.command()
def demo(
    folder: Annotated[
        Path, typer.Option("--out", callback=out_folder, help="Where everything is written.")
    ] = Path("demo"),
    method: Annotated[
        str,
        typer.Option(autocompletion=completes_as("pretrain", "method"), help="The method to show."),
    ] = "spatial",
    subjects: Annotated[int, typer.Option(help="Subjects of the cohort.")] = 24,
    steps: Annotated[int | None, typer.Option(help="Pretraining steps.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """The main job on embedded data: pretrain, transfer with few labels, report.

    Example: `situs demo` or `situs demo --method s2dc --out demo-s2dc`

    `--method planes` cuts DICOM studies out of the cohort and plans the planes of unseen ones.
    """
    from situs.demo import run_demo

    result = run_demo(folder, method=method, subjects=subjects, steps=steps, seed=seed, quiet=quiet)
    if json:
        print_json(result.as_dict())
    else:
        out.print(demonstrated(result))


def _finish(run: Any, report: bool, json: bool, quiet: bool) -> None:
    from situs.cli.scores import print_scores, score_rows  # imports scipy
    from situs.report.report import write_report

    observations = run.observations()
    page = write_report(run.path) if report else None
    if json:
        print_json(
            {
                "run": run.path,
                **run.record.document(),
                "scores": score_rows(observations),
                "report": page,
            }
        )
        return
    if not quiet:
        print_scores(observations)
    out.print(f"run: {run.path}", markup=False, soft_wrap=True)
    if page is not None:
        out.print(f"report: {page}", markup=False, soft_wrap=True)
