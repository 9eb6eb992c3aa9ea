"""``situs methods``, ``situs backbones`` and ``situs config``."""

import inspect
import re
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from situs.cli import app
from situs.cli.console import Json, out, print_json
from situs.cli.settings import completes_as


@app.command()
def methods(json: Json = False) -> None:
    """List the pretext tasks: what each looks at, what it trains, where it was published.

    Example: `situs methods`
    """
    from situs.methods import available, method_class

    rows = []
    for name in available():
        found = method_class(name)
        trains = "encoder and decoder" if found.trains_decoder else "encoder"
        rows.append(
            {
                "name": name,
                "title": found.title,
                "looks at": f"{'studies' if found.item == 'study' else 'scans'}, "
                f"{found.spatial_dims}D",
                "trains": trains,
                "paper": found.paper if json else _short(found.paper),
            }
        )
    _show(rows, json)
    if not json:
        out.print("sums: --method spatial+mae; settings: situs config spatial+mae", highlight=False)


@app.command()
def backbones(json: Json = False) -> None:
    """List the networks that can be pretrained, and sizes of them that have a name.

    Example: `situs backbones`, then `situs pretrain --backbone resenc_l …`
    """
    from situs.backbones import available, backbone_class
    from situs.backbones.presets import PRESETS

    rows = []
    for name in available():
        text = inspect.getdoc(backbone_class(name)) or ""
        rows.append({"name": name, "what": " ".join(text.split("\n\n")[0].split())})
    for name, (base, options, whose) in PRESETS.items():
        said = ", ".join(f"{key} {value}" for key, value in options.items())
        rows.append({"name": name, "what": f"{whose}: {base} with {said}"})
    _show(rows, json)


@app.command()
def config(
    method: Annotated[
        str,
        typer.Argument(
            autocompletion=completes_as("pretrain", "method"),
            help="A method, 'situs methods' lists them, or a sum of methods.",
        ),
    ],
) -> None:
    """Print every setting of a pretraining with its default and meaning, as YAML.

    Example: `situs config spatial > first.yaml`, then `situs pretrain --config first.yaml`

    What is left empty is required: `data` and `out`, which may be given as options as well.
    """
    from pydantic import Field, create_model

    from situs.methods import method_class
    from situs.pretraining.config import PretrainConfig
    from situs.settings import commented_yaml

    models = {name.strip(): method_class(name.strip()).Config for name in method.split("+")}
    if len(models) == 1:
        (options,) = models.values()
    else:
        fields: Any = {name: (m, Field(default_factory=m)) for name, m in models.items()}
        options = create_model("Options", **fields)
    typer.echo(commented_yaml(PretrainConfig, {"method": method}, {"options": options}), nl=False)


def _short(paper: str) -> str:
    """The numbers under which a paper is found; the whole of what has none."""
    found = re.findall(r"arXiv [\d.]+\d", paper)
    return ", ".join(found) or paper


def _show(rows: list[dict[str, str]], json: bool) -> None:
    if json:
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False)
    for heading in rows[0]:
        table.add_column(heading, overflow="fold", no_wrap=heading == "name")
    for row in rows:
        table.add_row(*map(escape, row.values()))
    out.print(table)
