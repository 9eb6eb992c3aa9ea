"""``write_report``: one self-contained page from a run folder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from situs import text
from situs.errors import ConfigError
from situs.files import check_writable, write_file
from situs.report import page, scene, summary
from situs.report.figures import training
from situs.report.folder import RunFolder, read_run
from situs.report.report_data import data_section
from situs.report.report_transfer import transfer_section
from situs.report.sections import Detail, TaskSection, task_sections
from situs.report.svg import Tile
from situs.training.record import About, Hardware, RunRecord

BUDGET = 15_000_000
# Tried in turn until the page fits its budget.
_DETAILS = (
    Detail(steps=5, longest=128),
    Detail(steps=4, longest=96),
    Detail(steps=2, longest=64),
    Detail(steps=1, longest=48),
)
_FULL = Detail(steps=1000, longest=4096)


@dataclass(frozen=True)
class _Report:
    """What the template shows."""

    name: str
    method: str
    method_title: str
    headline: str
    sentences: list[str]
    warnings: list[str]
    gauges: list[summary.GaugeGroup]
    facts: list[tuple[str, str]]
    steps: list[int]
    sections: list[TaskSection]
    transfer: dict[str, Any]
    losses: list[Tile]
    losses_caption: str
    score_curves: list[Tile]
    data: dict[str, Any]
    methods: list[dict[str, Any]]
    commands: str
    config: str
    info: str
    scenes: dict[str, Any] | None
    assets: dict[str, str]
    licence: str
    notes: str


def write_report(
    run_folder: str | Path,
    out: str | Path | None = None,
    full: bool = False,
    transfers: Sequence[str | Path] = (),
    *,
    names: bool = False,
) -> Path:
    """Draw what a run has learned.

    Only the run folder (and ``transfers``) is read; no network is loaded.

    Args:
        run_folder: ``config.yaml``, ``run.json``, ``metrics.csv``, ``observations/``, and
            optionally ``data.json`` and ``transfer/*/result.json``.
        out: The HTML file, or a folder for ``index.html``; ``report/`` in the run by default.
        full: Every observed step and volumes as fine as they were kept, as files beside the page;
            otherwise one file of at most 15 MB.
        transfers: Result folders of fine-tunings besides those under ``transfer/``.
        names: Show names of scans and cases; by default short ids, which ``names.csv`` in the
            run folder tells apart.

    Returns:
        The page.

    Raises:
        RunError: If ``run_folder`` is no run folder, or cannot be read.
    """
    run = read_run(run_folder, transfers, names=names)
    target = _target(run, out)
    check_writable(target, folder=False)
    if full:
        html = _render(run, _FULL, target.parent)
    else:
        for detail in _DETAILS:
            html = _render(run, detail, None)
            if len(html.encode()) <= BUDGET:
                break
    write_file(target, html)
    run.names.save(run.path)
    return target


def _target(run: RunFolder, out: str | Path | None) -> Path:
    if out is None:
        return run.path / "report" / "index.html"
    out = Path(out)
    return out if out.suffix == ".html" else out / "index.html"


def _render(run: RunFolder, detail: Detail, beside: Path | None) -> str:
    assets = scene.Assets(detail.longest, run.names)
    sections = task_sections(run, detail, assets)
    transfer = transfer_section(run, assets)
    drawn = [*sections, *(s for result in transfer["results"] for s in result["sections"])]
    scenes = {s.id: s.scenes for s in drawn if s.scenes}
    files = {"niivue": page.viewer_bundle(), **assets.base64()} if scenes else {}
    if beside is not None and files:
        _write_assets(beside / "assets", files)
        files = {}
    methods = _methods(run)
    report = _Report(
        name=text.printable(run.name),
        method=text.printable(run.method),
        method_title=" + ".join(m["title"] for m in methods if m["title"]),
        headline=summary.headline(run),
        sentences=summary.sentences(run),
        warnings=summary.warnings(run),
        gauges=summary.gauges(run),
        facts=_facts(run),
        steps=run.steps,
        sections=sections,
        transfer=transfer,
        losses=training.loss_tiles({run.name: run.metrics}),
        losses_caption=training.loss_caption(run.metrics),
        score_curves=training.score_tiles({run.name: run.metrics}, score_columns(run)),
        data=data_section(run),
        methods=methods,
        commands=_commands(run),
        config=page.settings(run.config, run.names),
        info=text.printable_lines(_json(run)),
        scenes={"sections": scenes} if scenes else None,
        assets=files,
        licence=page.viewer_licence() if scenes else "",
        notes=_notes(run, detail),
    )
    js = page.text_asset("report.js") + (page.text_asset("viewer.js") if scenes else "")
    return page.render("report.html.j2", r=report, js=Markup(js))


def score_columns(run: RunFolder) -> dict[str, Any]:
    """``score/…`` column of the metrics file → the last observation's score."""
    several = len(run.latest) > 1
    return {
        f"score/{observation.method}/{name}" if several else f"score/{name}": score
        for observation in run.latest
        for name, score in observation.scores.items()
    }


def _write_assets(folder: Path, files: dict[str, str]) -> None:
    """Pages opened from disk may not fetch files, but may run scripts beside them."""
    for key, html in files.items():
        write_file(folder / f"{key}.js", f'situsAsset("{key}","{html}");\n')


def _json(run: RunFolder) -> str:
    shown = text.without_folders(run.names.inside(run.record.document()), called=run.names.called)
    return json.dumps(shown, indent=2, ensure_ascii=False)


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    record, config = run.record, run.config
    backbone = record.backbone or {"name": (config.get("backbone") or {}).get("name")}
    memory, wait = record.peak_memory_mib, record.data_wait_share
    known = (
        ("method", run.method),
        ("backbone", _backbone(backbone)),
        ("steps", record.step or (run.steps[-1] if run.steps else None)),
        ("batch", config.get("batch_size")),
        ("training time", text.duration(record.wall_seconds) if record.wall_seconds else None),
        ("hardware", _hardware(record.hardware)),
        ("waiting for data", f"{100 * wait:.0f} %" if wait is not None else None),
        ("peak memory", f"{text.count(memory)} MiB" if memory else None),
        ("scans", record.scans),
        ("seed", record.seed),
        ("started", record.started.replace("T", " ")),
        ("status", record.status),
        ("began with the weights of", _began(record)),
        ("situs", record.situs_version),
    )
    return [(k, text.printable(str(v))) for k, v in known if v not in (None, "", "unknown")]


def _hardware(hardware: Hardware) -> str | None:
    if hardware.gpus:
        return hardware.gpus[0]
    return f"{hardware.cores} CPU cores" if hardware.cores else None


def _began(record: RunRecord) -> str | None:
    if record.init is None:
        return None
    from situs.weights import Beginning  # noqa: PLC0415 - imports torch

    return Beginning.model_validate(record.init).said()


def _backbone(backbone: dict[str, Any]) -> str:
    dims = backbone.get("spatial_dims")
    return str(backbone.get("name", "")) + (f", {dims}D" if dims else "")


def _methods(run: RunFolder) -> list[dict[str, Any]]:
    """Title, paper and formulas of each part: as the run recorded them, else as installed."""
    found = []
    for name in run.method.split("+"):
        about = run.record.method_info.get(name) or _installed(name)
        found.append(
            {
                "name": text.printable(name),
                "title": text.printable(about.title),
                "paper": text.printable(about.paper),
                "formulas": {
                    text.printable(k): text.printable(v) for k, v in about.formulas.items()
                },
                "reach": [
                    (text.printable(r.term), f"{r.encoder:.0f} %", f"{r.decoder:.0f} %")
                    for observation in run.latest
                    if observation.method == name
                    for r in observation.reach
                ],
            }
        )
    return found


def _installed(name: str) -> About:
    from situs import methods  # noqa: PLC0415 - imports torch

    try:
        method = methods.method_class(name)
    except ConfigError:
        return About()
    return About(title=method.title, paper=method.paper, formulas=dict(method.formulas))


def _commands(run: RunFolder) -> str:
    lines = [
        f"pip install situs=={version}" if (version := run.record.situs_version) else "",
        "situs pretrain --config config.yaml --out runs/again",
        f"situs observe {run.name}",
    ]
    if fingerprint := run.record.data_fingerprint:
        lines.append(f"# data fingerprint: {fingerprint}")
    return text.printable_lines("\n".join(line for line in lines if line))


def _notes(run: RunFolder, detail: Detail) -> str:
    left = len(run.steps) - len(detail.pick(run.steps))
    if left <= 0:
        return ""
    return (
        f"{left} of {len(run.steps)} observed steps are left out to keep this file small; "
        "'situs observe --full' writes a folder with all of them."
    )
