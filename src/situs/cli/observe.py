"""``situs observe``, ``situs compare`` and ``situs serve``."""

from pathlib import Path
from typing import Annotated

import typer

from situs.cli import app
from situs.cli.console import Json, Names, Quiet, err, out, out_page, print_json

Out = Annotated[
    Path | None, typer.Option("--out", callback=out_page, help="HTML file or folder to write.")
]


@app.command()
def observe(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out_path: Out = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="A folder with every step and volumes as fine as they were kept."
        ),
    ] = False,
    transfer: Annotated[
        list[Path] | None, typer.Option(help="Result folder of a fine-tuning to show as well.")
    ] = None,
    names: Names = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Draw what a run has learned: one HTML report, and the scores in a table.

    Example: `situs observe runs/first` or `situs observe runs/first --transfer results/few`
    """
    from situs.cli.scores import print_scores, score_rows  # imports scipy
    from situs.report.folder import read_run
    from situs.report.report import write_report

    page = write_report(run, out_path, full=full, transfers=transfer or (), names=names)
    if json:
        print_json({"report": page, "scores": score_rows(read_run(run).latest)})
        return
    if not quiet:
        print_scores(read_run(run).latest)
    out.print(f"report: {page}", soft_wrap=True, markup=False, highlight=False)


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two run folders or more.")],
    out_path: Out = None,
    names: Names = False,
    json: Json = False,
) -> None:
    """Hold runs against each other: scores, curves, transfer, settings that differ.

    Example: `situs compare runs/spatial runs/s2dc --out comparison.html`
    """
    from situs.cli.scores import score_rows
    from situs.report.compare import write_comparison
    from situs.report.folder import read_run

    page = write_comparison(runs, out_path or Path("comparison.html"), names=names)
    if json:
        scores = {str(run): score_rows(read_run(run).latest) for run in runs}
        print_json({"comparison": page, "scores": scores})
        return
    out.print(f"comparison: {page}", soft_wrap=True, markup=False, highlight=False)


@app.command()
def serve(
    folder: Annotated[Path, typer.Argument(help="The folder that your runs are in.")] = Path(
        "runs"
    ),
    port: Annotated[int, typer.Option(help="Port on 127.0.0.1; 0 takes a free one.")] = 8757,
) -> None:
    """List runs with live curves on a page that only this machine can open.

    Example: `situs serve runs`
    """
    from situs.report.serve import make_server

    server = make_server(folder, port)
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    out.print(address, markup=False, highlight=False)
    err.print("only this machine can open it; stop with Ctrl+C", highlight=False)
    try:
        server.serve_forever()
    finally:
        server.server_close()
