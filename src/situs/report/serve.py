"""``situs serve``: a page on this machine only, with every run below a folder, live.

Nothing in a request ever becomes a path: runs are found by walking the folder, and a request
names one by a key that this process made up.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from markupsafe import Markup

from situs import text
from situs.errors import RunError, SitusError
from situs.files import sha256
from situs.report import page, summary
from situs.report.figures import training
from situs.report.folder import RunFolder, read_run
from situs.report.report import score_columns, write_report

HOST = "127.0.0.1"
_HERE = re.compile(rf"({re.escape(HOST)}|localhost):\d{{1,5}}")
_DEEPEST = 4
# Everything is inside the page; nothing may be loaded from or sent to anywhere.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline' blob:; "
    "img-src data: blob:; connect-src 'self' data: blob:; worker-src blob:; font-src data:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Served:
    """A run that is listed: a key made from its path, and the path."""

    key: str
    path: Path


def find_runs(root: str | Path) -> list[Served]:
    """Run folders at or below ``root``, the newest first; links out of it are not followed."""
    root = Path(root).resolve()
    found: list[Path] = []
    level = [root]
    for _ in range(_DEEPEST + 1):
        below: list[Path] = []
        for folder in level:
            if (folder / "run.json").is_file():
                found.append(folder)
            else:
                below += [f for f in folder.iterdir() if f.is_dir() and not f.is_symlink()]
        level = [f for f in below if not f.name.startswith(".")]
    found.sort(key=lambda f: (f / "run.json").stat().st_mtime, reverse=True)
    return [Served(sha256(str(f), digits=12), f) for f in found]


def make_server(root: str | Path, port: int = 8757) -> ThreadingHTTPServer:
    """A server bound to 127.0.0.1; call ``serve_forever`` on it.

    Args:
        root: Folder below which runs are listed.
        port: 0 takes any free one.

    Raises:
        RunError: If ``root`` is no folder, or the port is taken.
    """
    folder = Path(root)
    if not folder.is_dir():
        raise RunError(f"{root} is not a folder; give the one that your runs are in")
    # Figures use matplotlib's process-wide settings for a moment.
    drawing = threading.Lock()

    class Handler(_Handler):
        runs_root = folder
        lock = drawing

    try:
        return ThreadingHTTPServer((HOST, port), Handler)
    except OSError as error:
        raise RunError(f"port {port} cannot be used ({error.strerror}); try --port") from error


class _Handler(BaseHTTPRequestHandler):
    """``/`` lists, ``/run/KEY`` follows a run, ``/run/KEY/report`` is its report."""

    runs_root: Path
    lock: threading.Lock
    server_version = "situs"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one request; a run that cannot be read is a page that says so."""
        if not self._from_here():
            self._send(HTTPStatus.FORBIDDEN, "only this machine may ask", "text/plain")
            return
        try:
            with self.lock:
                status, body = self._answer(self.path.partition("?")[0])
        except (SitusError, OSError, ValueError) as error:
            status, body = HTTPStatus.INTERNAL_SERVER_ERROR, _message(text.printable(str(error)))
        self._send(status, body, "text/html; charset=utf-8")

    def log_message(self, format: str, *args: object) -> None:
        """Stay quiet: the terminal shows the address and nothing else."""

    def _from_here(self) -> bool:
        """Refuse names that merely resolve to this machine (DNS rebinding)."""
        return bool(_HERE.fullmatch(self.headers.get("Host") or ""))

    def _answer(self, path: str) -> tuple[HTTPStatus, str]:
        runs = {served.key: served for served in find_runs(self.runs_root)}
        if path == "/":
            return HTTPStatus.OK, _index(self.runs_root, list(runs.values()))
        parts = path.strip("/").split("/")
        if len(parts) < 2 or parts[0] != "run" or parts[1] not in runs:
            return HTTPStatus.NOT_FOUND, _message("There is no such page. Runs are listed at /.")
        run = runs[parts[1]]
        match parts[2:]:
            case []:
                return HTTPStatus.OK, _live(run)
            case ["curves"]:
                return HTTPStatus.OK, _curves(run)
            case ["report"]:
                return HTTPStatus.OK, _report(run)
            case _:
                return HTTPStatus.NOT_FOUND, _message("There is no such page.")

    def _send(self, status: HTTPStatus, body: str, kind: str) -> None:
        content = body.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Referrer-Policy", "no-referrer")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)


def _index(root: Path, runs: list[Served]) -> str:
    rows = []
    for served in runs:
        try:
            run = read_run(served.path)
        except SitusError as error:
            rows.append({"key": "", "name": served.path.name, "error": str(error)})
            continue
        rows.append(
            {
                "key": served.key,
                "name": text.printable(str(served.path.relative_to(root.resolve()))),
                "method": text.printable(run.method),
                "status": text.printable(run.record.status),
                "steps": _progress(run),
                "headline": summary.headline(run),
                "error": "",
            }
        )
    return page.render("serve.html.j2", rows=rows, js=Markup(page.text_asset("report.js")))


def _progress(run: RunFolder) -> str:
    steps = run.metrics.get("step")
    done = int(steps[-1]) if steps is not None and len(steps) else run.record.step or 0
    planned = run.config.get("steps")
    return f"{done} of {planned}" if planned else str(done)


def _live(served: Served) -> str:
    run = read_run(served.path)
    return page.render(
        "live.html.j2",
        key=served.key,
        name=text.printable(run.name),
        method=text.printable(run.method),
        curves=Markup(_curves(served)),
        js=Markup(page.text_asset("report.js") + page.text_asset("live.js")),
    )


def _curves(served: Served) -> str:
    """What the live page replaces every few seconds."""
    run = read_run(served.path)
    return page.render(
        "curves.html.j2",
        status=text.printable(run.record.status),
        progress=_progress(run),
        headline=summary.headline(run),
        warnings=summary.warnings(run),
        scores=training.score_tiles({run.name: run.metrics}, score_columns(run)),
        losses=training.loss_tiles({run.name: run.metrics}),
    )


def _report(served: Served) -> str:
    """The run's report, written anew when an observation is newer than it."""
    file = served.path / "report" / "index.html"
    seen = [f.stat().st_mtime for f in (served.path / "observations").glob("*.obs")]
    if not file.is_file() or file.stat().st_mtime < max(seen, default=0.0):
        write_report(served.path)
    return file.read_text(encoding="utf-8")


def _message(html: str) -> str:
    return page.render("message.html.j2", text=html)
