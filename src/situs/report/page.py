"""The one dress of every page: templates, styles and scripts, all inside one file.

Everything that comes from data goes through Jinja's autoescape; only SVG made by
:mod:`situs.report.svg` and JSON made by :func:`script_json` are marked safe.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from situs import text
from situs.report import style
from situs.report.svg import Tile
from situs.scans.aliases import Names
from situs.version import __version__

STATIC = Path(__file__).parent / "static"
_POLICY_HERE = "situs-content-security-policy"
# All text of a page is escaped, so that what looks like a script is one of ours.
_INLINE = re.compile(r"<script>(.*?)</script>", re.DOTALL)
NIIVUE = STATIC / "niivue" / "niivue.umd.js"


def render(template: str, **context: Any) -> str:
    """A page from a template, which may run its own scripts and load nothing from anywhere."""
    html = (
        _environment()
        .get_template(template)
        .render(
            css=Markup(style.css_variables() + text_asset("report.css")),
            version=__version__,
            **context,
        )
    )
    return html.replace(_POLICY_HERE, _policy(html), 1)


def _policy(html: str) -> str:
    """The content security policy of a page: scripts by their hashes, nothing from outside.

    The viewer is unpacked by the page and is one of them; with ``--full`` its files lie beside.
    """
    hashes = (*(_hash(js.encode()) for js in _INLINE.findall(html)), _viewer_hash())
    allowed = " ".join(f"'sha256-{found}'" for found in dict.fromkeys(hashes))
    return (
        f"default-src 'none'; script-src {allowed} 'self' file: blob:; "
        "style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self' data: blob:; "
        "worker-src blob:; font-src data:; base-uri 'none'; form-action 'none'"
    )


def _hash(script: bytes) -> str:
    return base64.b64encode(hashlib.sha256(script).digest()).decode()


@cache
def _viewer_hash() -> str:
    return _hash(NIIVUE.read_bytes())


def text_asset(name: str) -> str:
    """A style sheet or script of situs's own."""
    return (STATIC / name).read_text(encoding="utf-8")


def settings(config: Mapping[str, Any], names: Names) -> str:
    """A configuration as YAML; of its paths nothing but ids, or names where those are shown."""
    shown = text.without_folders(names.inside(config), called=names.called)
    blob: str = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    return text.printable_lines(blob)


def script_json(value: Any) -> Markup:
    """JSON that is safe inside a ``<script>`` element, whatever strings it holds."""
    blob = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return Markup(blob.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


@cache
def viewer_bundle() -> str:
    """NiiVue, gzipped and in base64, so that a page carries it at a third of its size."""
    return base64.b64encode(gzip.compress(NIIVUE.read_bytes(), 9, mtime=0)).decode()


@cache
def viewer_licence() -> str:
    """The licences of what the viewer's bundle holds; they travel with every page."""
    return (NIIVUE.parent / "LICENSE").read_text(encoding="utf-8")


def _environment() -> Environment:
    """One a page: it numbers the page's figures."""
    environment = Environment(
        loader=PackageLoader("situs.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["quantity"] = text.quantity
    environment.filters["number"] = text.number
    environment.filters["printable"] = lambda value: text.printable(str(value))
    environment.filters["svg"] = _drawer()
    environment.filters["json"] = script_json
    return environment


def _drawer() -> Callable[[Tile], Markup]:
    """Places tiles in one page, each with ids of its own."""
    number = itertools.count()

    def draw(tile: Tile) -> Markup:
        # Made by situs.report.svg, whose text nodes matplotlib has escaped.
        return Markup(tile.renamed(f"f{next(number)}-"))

    return draw
