"""``situs scan``, ``situs prepare`` and ``situs upload``."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from situs.cli import app
from situs.cli.console import (
    Json,
    Quiet,
    bar,
    bars,
    err,
    out,
    out_catalog,
    out_folder,
    print_json,
    print_remedies,
    some_there,
)
from situs.cli.settings import ConfigFile, Given, Set, completes, takes_settings
from situs.errors import SitusError

if TYPE_CHECKING:
    from situs.catalog.catalog import Catalog
    from situs.catalog.measure import Entry

Workers = Annotated[
    int | None, typer.Option(min=0, help="Processes; all cores by default, 0 for this one alone.")
]

_VOLUMES = ("refuse", "first", "each")
_BURNED_IN = ("accept", "refuse")

_TABLE_COLUMNS = 80
_ACCEPTED = {
    "scan": "{}",
    "shape": "{}",
    "mm": "{} mm",
    "axes": "{}",
    "modality": "modality {}",
    "role": "{}",
    "intensities": "intensities {}",
    "study": "study {}",
    "duplicate of": "duplicate of {}",
}
_REFUSED = {"refused": "{}", "reason": "{}", "what": "{}"}
"""Headings of the tables, and how a line says what would stand below."""

_LABELS = "label-map"  # left out as it should be, and no reason for alarm


@app.command()
def scan(
    paths: Annotated[
        list[Path],
        typer.Argument(callback=some_there, help="Files and folders, or one URL.", metavar="PATH"),
    ],
    catalog: Annotated[
        Path | None,
        typer.Option(
            "--out",
            callback=out_catalog,
            help="Where to save: a folder, a .parquet or a .json file.",
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="Folder that the catalog's paths start from.")
    ] = None,
    workers: Workers = None,
    volumes: Annotated[
        str,
        typer.Option(
            autocompletion=completes(*_VOLUMES),
            help="Scans of several volumes: refuse, first, or each.",
        ),
    ] = "refuse",
    modality: Annotated[
        str | None, typer.Option(help="Of all scans whose files do not tell, e.g. MR.")
    ] = None,
    patient: Annotated[
        str | None,
        typer.Option(help="Regular expression; its first group in a scan's path is the patient."),
    ] = None,
    planes: Annotated[bool, typer.Option(help="Accept single slices (for 'planes').")] = False,
    burned_in: Annotated[
        str,
        typer.Option(
            autocompletion=completes(*_BURNED_IN),
            help="DICOM whose header says that text stands in the pixels: accept or refuse.",
        ),
    ] = "accept",
    rows: Annotated[int, typer.Option(min=0, help="Scans to list; 0 for all.")] = 50,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find scans, read geometry, measure quality; one line a scan, refused ones with the reason.

    Example: `situs scan data/ --out catalog`

    Exit code 0 where everything can be used, 1 where something was refused (label maps do not
    count), 2 where nothing can be used.
    """
    from situs.catalog.catalog import build_catalog
    from situs.catalog.patients import burned_in_warning, one_patient_warning

    with bars("reading", quiet or json) as tell:
        found = build_catalog(
            paths,
            root,
            workers=workers,
            progress=tell,
            volumes=_one_of("volumes", volumes, _VOLUMES),
            modality=modality,
            patient=patient,
            planes=planes,
            burned_in=_one_of("burned-in", burned_in, _BURNED_IN),
            skip=[catalog] if catalog is not None else [],
        )
    if not found.entries:
        where = ", ".join(map(str, paths))
        raise SitusError(
            f"nothing to read in {where}: no NIfTI, NRRD, MHA or DICOM file. Nothing was saved"
        )
    saved = found.save(catalog) if catalog is not None else []
    if json:
        beside = {"passed_over": list(found.passed_over)}
        print_json(_summary(found) | beside | {"entries": [e.model_dump() for e in found.entries]})
    elif not quiet:
        _print(found, rows)
    if not json:
        _print_summary(found, saved, rows)
    for told in (
        one_patient_warning((e.patient, e.study) for e in found.accepted),
        burned_in_warning((e.path, e.burned_in) for e in found.accepted),
    ):
        if told:
            err.print(f"warning: {told}", markup=False, highlight=False, soft_wrap=True)
    refused = any(e.reason != _LABELS for e in found.refused)
    raise typer.Exit(2 if not found.accepted else int(refused))


@app.command()
@takes_settings("prepare")
def prepare(
    given: Given,
    data: Annotated[
        list[Path],
        typer.Argument(
            help="A catalog from 'situs scan', or scans, as it takes them.", metavar="CATALOG"
        ),
    ],
    store: Annotated[Path, typer.Option("--out", callback=out_folder, help="Folder of the store.")],
    config: ConfigFile = None,
    settings: Set = None,
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare checksums of what is there already.")
    ] = False,
    workers: Workers = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Orient, crop, resample and normalise scans into a store; resumable.

    Example: `situs prepare catalog --out store --spacing median`

    A second call does only what is missing. Exit code 1 where something was refused on the way.
    """
    from situs.config import load_config
    from situs.store import Preprocessing
    from situs.store import prepare as make_store

    overrides = [*(settings or ()), *(f"{name}={_listed(said)}" for name, said in given.items())]
    preprocessing = load_config(Preprocessing, config or {}, overrides)
    asked = data[0] if len(data) == 1 else data
    with bars("reading", quiet or json) as tell:
        made = make_store(
            asked, store, preprocessing, workers=workers, progress=tell, verify=verify
        )
    refused = [r for r in made.refused if r["reason"] != _LABELS]
    if json:
        facts = {"store": str(store), "scans": len(made), "fingerprint": made.fingerprint}
        print_json(
            facts | {"rules": made.preprocessing.model_dump(mode="json"), "refused": refused}
        )
    else:
        if not quiet:
            for refusal in refused:
                line = f"refused {refusal['source']}: {refusal['detail']} [{refusal['reason']}]"
                err.print(line, markup=False, highlight=False, soft_wrap=True)
            print_remedies(Counter(r["reason"] for r in refused), err)
        words = f"{len(made)} scans in {store}, {len(refused)} refused"
        out.print(words, markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(int(bool(refused)))


@app.command()
def upload(
    store: Annotated[Path, typer.Argument(help="A store from 'situs prepare'.", metavar="STORE")],
    url: Annotated[
        str, typer.Argument(help="Where to copy it, such as s3://bucket/store.", metavar="URL")
    ],
    verify: Annotated[
        bool, typer.Option("--verify", help="Read back what is there already, too.")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Copy a store to object storage; resumable.

    Example: `situs upload store s3://bucket/store`; `situs pretrain --data s3://bucket/store` then
    reads it there.

    Every file is read back and held against its checksum. A second call copies what is missing.
    Any URL that fsspec writes to will do; credentials are those of the provider's own tools.
    """
    from situs.store.upload import upload as copy

    with bar("copying scans", quiet or json) as tell:
        done = copy(store, url, verify=verify, progress=tell)
    if json:
        print_json({"url": done.url, "scans": done.scans, "copied": done.copied})
    else:
        words = f"{done.scans} scans in {done.url}, {done.copied} of them copied now"
        out.print(words, markup=False, highlight=False, soft_wrap=True)


def _listed(text: str) -> str:
    """``1,1,2`` as the YAML list that the setting expects."""
    return f"[{text}]" if "," in text else text


def _one_of(option: str, asked: str, known: Sequence[str]) -> Any:
    if asked not in known:
        *some, last = known
        raise typer.BadParameter(f"--{option} must be {', '.join(some)} or {last}, got '{asked}'")
    return asked


def _print(catalog: "Catalog", rows: int) -> None:
    accepted = catalog.accepted
    if accepted:
        names = {e.key: e.path for e in accepted}
        _print_rows(_ACCEPTED, [_cells(entry, names) for entry in accepted[: rows or None]])
        if rows and len(accepted) > rows:
            out.print(f"… and {len(accepted) - rows} more; --rows 0 lists all")
    refused = [e for e in catalog.refused if e.reason != _LABELS]
    _print_refused(refused, rows)


def _print_rows(
    columns: Mapping[str, str], rows: Sequence[Sequence[str]], style: str = "bold"
) -> None:
    """A table; in a narrow terminal, where columns would be a few letters wide, lines.

    Args:
        columns: Heading → how a line says what stands below it.
        rows: A cell a column, the first of which is a name.
        style: Of headings or names.
    """
    if out.width < _TABLE_COLUMNS:
        for name, *cells in rows:
            told = zip(list(columns.values())[1:], cells, strict=True)
            words = ", ".join(said.format(cell) for said, cell in told if cell)
            out.print(Text(name, style=style))
            out.print(Padding(Text(words), (0, 0, 0, 2)))
        return
    table = Table(box=None, header_style=style, padding=(0, 1))
    for heading in columns:
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(escape, row))
    out.print(table)


def _cells(entry: "Entry", names: dict[str, str]) -> list[str]:
    twin = entry.duplicate_of or entry.near_duplicate_of
    volume = "" if entry.volume is None else f" [{entry.volume}]"
    return [
        entry.path + volume,
        "×".join(map(str, entry.shape)) + (f" ×{entry.channels}" if entry.channels > 1 else ""),
        "×".join(f"{s:.3g}" for s in entry.spacing),
        entry.orientation,
        entry.modality,
        entry.description,
        f"{entry.intensity_min:.5g} … {entry.intensity_max:.5g}",
        entry.study[:6],
        ("≈ " if entry.near_duplicate_of else "") + names.get(twin, "") if twin else "",
    ]


def _print_refused(refused: list["Entry"], rows: int) -> None:
    if not refused:
        return
    shown: Counter[str] = Counter()
    listed = []
    for entry in refused:
        shown[entry.reason] += 1
        if not rows or shown[entry.reason] <= rows:
            listed.append((entry.path, entry.reason, entry.detail))
    _print_rows(_REFUSED, listed, "bold red")
    print_remedies(shown, out)


def _summary(catalog: "Catalog") -> dict[str, int]:
    from situs.splits.groups import scan_groups

    labels = sum(e.reason == _LABELS for e in catalog.refused)
    marks = ("key", "near_duplicate_of", "patient", "study", "series")
    records = [
        {mark: getattr(e, mark) for mark in marks} | {"source": e.path} for e in catalog.unique
    ]
    return {
        "accepted": len(catalog.accepted),
        "refused": len(catalog.refused) - labels,
        "label_maps": labels,
        "duplicates": len(catalog.accepted) - len(catalog.unique),
        "near_duplicates": sum(bool(e.near_duplicate_of) for e in catalog.accepted),
        "patients": len(set(scan_groups(records).values())),
        "studies": len(catalog.studies()),
        "burned_in": sum(e.burned_in for e in catalog.accepted),
        "ignored": catalog.ignored,
    }


def _print_summary(catalog: "Catalog", saved: list[Path], rows: int) -> None:
    counts = {name.replace("_", " "): count for name, count in _summary(catalog).items()}
    words = ", ".join(f"{name} {count}" for name, count in counts.items())
    out.print(words, highlight=False, soft_wrap=True)
    labels = [entry.path for entry in catalog.refused if entry.reason == _LABELS]
    for what, names in (("label maps, left out", labels), ("ignored", catalog.passed_over)):
        shown = ", ".join(names[: rows or None])
        more = f" and {len(names) - rows} more" if rows and len(names) > rows else ""
        if names:
            words = f"{what}: {shown}{more}"
            out.print(words, markup=False, highlight=False, soft_wrap=True)
    if saved:
        files = ", ".join(map(str, saved))
        out.print(f"saved: {files}", markup=False, highlight=False, soft_wrap=True)
