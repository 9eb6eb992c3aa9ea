"""``situs export``."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from situs.cli import app
from situs.cli.console import Json, Overwrite, Quiet, out, out_folder, print_json
from situs.cli.settings import completes

_TARGETS = ("monai", "nnunet", "safetensors", "onnx", "hub")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="A run, a result, or a weights folder.")],
    to: Annotated[
        str,
        typer.Option(
            autocompletion=completes(*_TARGETS, group="situs.export"),
            help="monai, nnunet, safetensors, onnx or hub.",
        ),
    ],
    folder: Annotated[Path, typer.Option("--out", callback=out_folder, help="Folder to write.")],
    licence: Annotated[
        str, typer.Option("--licence", "--license", help="Of the weights, e.g. Apache-2.0.")
    ] = "",
    overwrite: Overwrite = False,
    plan: Annotated[
        Path | None,
        typer.Option(help="nnunet: plans of the data set to fine-tune on, to be adapted."),
    ] = None,
    configuration: Annotated[
        str, typer.Option(help="nnunet: configuration in --plan; 3d_fullres, or 2d for slices.")
    ] = "",
    pth: Annotated[
        bool, typer.Option("--pth", help="nnunet: also the pickled file that nnU-Net loads.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Hand the encoder on: to MONAI, nnU-Net, ONNX, a Hub layout, or as plain safetensors.

    Example: `situs export runs/first --to monai --out exported`

    What is written is loaded back and compared with the original before it counts.
    """
    from situs.export import export as write

    exported = write(
        run,
        to,
        folder,
        licence=licence,
        overwrite=overwrite,
        plan=plan,
        configuration=configuration,
        pth=pth,
    )
    use = exported.use.replace("FOLDER", str(exported.path))
    if json:
        print_json(
            {
                "path": exported.path,
                "files": exported.files,
                "checked": exported.checked,
                "use": use,
            }
        )
        return
    out.print(
        f"[bold]{escape(str(exported.path))}[/]: {escape(', '.join(exported.files))}",
        soft_wrap=True,
    )
    if not quiet:
        out.print(f"checked: {exported.checked}\n", markup=False, highlight=False, soft_wrap=True)
        out.print(use, markup=False, soft_wrap=True)
