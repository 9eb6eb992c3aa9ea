"""From a matplotlib figure to a small SVG that can live inside a page.

The SVG follows the page's theme, carries its alternative text, shares no id with another figure,
names no host, and holds its raster images as WebP.
"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from xml.sax.saxutils import quoteattr

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from situs import text
from situs.files import sha256
from situs.report import style

# Compressed for looking at, not for measuring; the report says so.
_WEBP_QUALITY = 82
# Below this many pixels a lossless image is as small, and its edges are exact.
_LOSSLESS_PIXELS = 4096

_PLACEHOLDER = re.compile(
    "|".join(tone.placeholder for tone in style.TONES.values()), re.IGNORECASE
)
_BY_PLACEHOLDER = {tone.placeholder: tone for tone in style.TONES.values()}
_IMAGE = re.compile(r"data:image/png;base64,\s*([A-Za-z0-9+/=\s]+)")
_PATH = re.compile(r' d="([^"]+)"')
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")
_ID = re.compile(r' id="([^"]+)"')
_REFERENCE = re.compile(r'(?:url\(#|href="#)([^)"]+)')


@dataclass(frozen=True)
class Tile:
    """One drawn figure.

    Attributes:
        svg: Markup, safe to place in a page as it is.
        alt: What it shows, in words.
        width: Natural width in CSS pixels.
        heading: Short words above it, plain text.
        own: What the ids inside begin with; the same figure twice in a page needs another.
        wide: Whether it takes a whole row (a legend above the images it explains).
    """

    svg: str
    alt: str
    width: float
    heading: str = ""
    own: str = ""
    wide: bool = False

    def renamed(self, own: str) -> str:
        """The markup with ids that begin with ``own``."""
        return self.svg.replace(self.own, own) if self.own else self.svg


def tile(figure: Figure, alt: str, heading: str = "") -> Tile:
    """Draw ``figure`` as a :class:`Tile`; ``alt`` says in words what it shows."""
    stream = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "situs"}):
        figure.savefig(stream, format="svg", metadata={"Date": None})
    width = figure.get_figwidth() * 72
    svg, own = _clean(stream.getvalue(), width, alt)
    return Tile(svg, alt, width, text.printable(heading), own)


def _clean(content: str, width: float, alt: str) -> tuple[str, str]:
    body = content[content.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = _themed(body)
    body = _IMAGE.sub(lambda match: _webp(match.group(1)), body)
    # A hundredth of a pixel is enough.
    body = _PATH.sub(lambda match: f' d="{_rounded(match.group(1))}"', body)
    body, own = _own_ids(body)
    body = re.sub(r">\s+<", "><", body)
    view_box = re.search(r'viewBox="([^"]+)"', body)
    assert view_box is not None, "matplotlib always writes a viewBox"
    opening = (
        f'<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{view_box.group(1)}" width="{width:.0f}" role="img" '
        f"aria-label={quoteattr(text.printable(alt))}>"
    )
    return opening + body[body.index(">") + 1 :].strip(), own


def _themed(body: str) -> str:
    def variable(match: re.Match[str]) -> str:
        tone = _BY_PLACEHOLDER[match.group(0).lower()]
        return f"var(--{tone.css},{tone.light})"

    # Fonts: the page's own.
    body = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", body)
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    return _PLACEHOLDER.sub(variable, body)


def _rounded(path: str) -> str:
    return _DECIMALS.sub(lambda match: f"{float(match.group(0)):.2f}".rstrip("0").rstrip("."), path)


def _own_ids(body: str) -> tuple[str, str]:
    """Drop the ids that nothing refers to; make the others unique to this figure."""
    used = set(_REFERENCE.findall(body))
    own = f"fig{sha256(body, digits=10)}-"

    def renamed(match: re.Match[str]) -> str:
        return f' id="{own}{match.group(1)}"' if match.group(1) in used else ""

    body = _ID.sub(renamed, body)
    return re.sub(r'(url\(#|href="#)', rf"\g<1>{own}", body), own


def _webp(encoded: str) -> str:
    image = Image.open(io.BytesIO(base64.b64decode(encoded)))
    pixels = np.asarray(image.convert("RGBA"))
    opaque = bool((pixels[..., 3] == 255).all())
    stream = io.BytesIO()
    (image.convert("RGB") if opaque else image.convert("RGBA")).save(
        stream,
        "WEBP",
        quality=_WEBP_QUALITY,
        method=4,
        lossless=image.width * image.height <= _LOSSLESS_PIXELS,
    )
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
