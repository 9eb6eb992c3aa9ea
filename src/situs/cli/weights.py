"""``situs import`` and ``situs embed``."""

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import typer

from situs.cli import app
from situs.cli.console import (
    Json,
    Names,
    Overwrite,
    Quiet,
    bar,
    err,
    out,
    out_file,
    out_folder,
    print_json,
    print_remedies,
)
from situs.cli.settings import completes

_LAYOUTS = ("monai", "voco", "suprem", "swin_unetr", "nnunet", "nnssl", "3dino", "dinov2")


@app.command("import")
def import_(
    checkpoint: Annotated[Path, typer.Argument(help="A .pt, .pth or .safetensors file.")],
    folder: Annotated[
        Path, typer.Option("--out", callback=out_folder, help="The weights folder to write.")
    ],
    layout: Annotated[
        str,
        typer.Option(
            autocompletion=completes("auto", *_LAYOUTS, group="situs.layouts"),
            help="auto, monai, voco, suprem, swin_unetr, nnunet, nnssl, 3dino or dinov2.",
        ),
    ] = "auto",
    licence: Annotated[
        str, typer.Option("--licence", "--license", help="Of the weights, e.g. Apache-2.0.")
    ] = "",
    source: Annotated[str, typer.Option(help="Where the file comes from, in words.")] = "",
    spacing: Annotated[
        tuple[float, float, float] | None,
        typer.Option(metavar="R A S", help="Millimetres along each that the weights expect."),
    ] = None,
    ct_window: Annotated[
        tuple[float, float] | None,
        typer.Option(metavar="LOW HIGH", help="HU range that the weights expect."),
    ] = None,
    allow_partial: Annotated[
        bool, typer.Option("--allow-partial", help="Accept less than 90 % of the source.")
    ] = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take in weights of MONAI, VoCo, SuPreM, nnU-Net v2, nnssl or 3DINO, with ledger and card.

    Example: `situs import VoComni_B.pt --out weights/voco-b`

    What comes out goes wherever a run goes: `pretrain --init`, `finetune --init`, `probe`,
    arms of a study, `export`. Nothing in the file is run.
    """
    from situs.weights.foreign import import_weights

    preprocessing: dict[str, Any] = {"spacing": spacing, "ct_window": ct_window}
    imported = import_weights(
        checkpoint,
        folder,
        layout=layout,
        licence=licence,
        source=source,
        preprocessing={key: value for key, value in preprocessing.items() if value is not None},
        allow_partial=allow_partial,
        overwrite=overwrite,
    )
    if json:
        print_json(
            {
                "path": imported.path,
                "layout": imported.layout,
                "share": imported.share,
                "card": imported.card.model_dump(mode="json"),
                "notes": imported.notes,
            }
        )
        return
    if not quiet:
        out.print(imported.ledger)
    for note in imported.notes:
        out.print(f"note: {note}", markup=False, soft_wrap=True)
    out.print(
        f"{imported.path}: {imported.layout}, {100 * imported.share:.1f} % of the source's numbers",
        markup=False,
        soft_wrap=True,
    )


@app.command()
def embed(
    run: Annotated[str, typer.Argument(help="A run, a result, or a weights folder.")],
    paths: Annotated[list[Path], typer.Argument(help="A store, or scans and folders of scans.")],
    table: Annotated[
        Path, typer.Option("--out", callback=out_file, help="The table, FEATURES.parquet.")
    ],
    grid: Annotated[
        float | None, typer.Option(help="A row every so many mm; one row a scan by default.")
    ] = None,
    page: Annotated[bool, typer.Option(help="Write a page with a map of the scans, too.")] = True,
    names: Names = False,
    overwrite: Overwrite = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the features of scans to Parquet, with provenance and a page.

    Example: `situs embed runs/first STORE --out features.parquet`

    Rows hold the scan's name, modality, spacing and the encoder's mean feature at every scale;
    with `--grid 20`, the features at places 20 mm apart and where they are.
    """
    from situs.report.embedding import write_page
    from situs.transfer.embed import embed as write

    with bar("embedding", quiet or json) as tell:
        embedded = write(
            run,
            paths,
            table,
            grid_mm=grid,
            overwrite=overwrite,
            progress=tell,
        )
    html = write_page(table, names=names) if page else None
    for error in embedded.refused:
        err.print(f"refused: {error}", markup=False, soft_wrap=True)
    print_remedies(Counter(error.reason for error in embedded.refused), err)
    said = {
        "path": embedded.path,
        "scans": embedded.scans,
        "rows": embedded.rows,
        "width": embedded.width,
        "refused": [{"scan": e.path.name, "reason": e.reason} for e in embedded.refused],
        "page": html,
    }
    if json:
        print_json(said)
        return
    out.print(
        f"{embedded.path}: {embedded.rows} rows of {embedded.width} numbers, "
        f"{embedded.scans} scans",
        markup=False,
        soft_wrap=True,
    )
    if html is not None:
        out.print(f"page: {html}", markup=False, soft_wrap=True)
