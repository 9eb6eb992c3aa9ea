"""From a matplotlib figure to a small SVG that can live inside a page.

The SVG follows the page's theme, carries its alternative text, shares no id with another figure,
names no host, and holds its raster images as WebP.
"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from xml.etree import ElementTree

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
_DECIMALS = re.compile(r"-?\d+\.\d{3,}")
_REFERENCE = re.compile(r"^#(.+)|url\(#([^)]+)\)")
_PNG = "data:image/png;base64,"
_SVG, _HREF = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
ElementTree.register_namespace("", _SVG.strip("{}"))
ElementTree.register_namespace("xlink", _HREF.strip("{").partition("}")[0])


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
    root = ElementTree.fromstring(content)  # which leaves comments out
    for metadata in root.findall(f"{_SVG}metadata"):
        root.remove(metadata)
    own = f"fig{sha256(content, digits=10)}-"
    used = {
        name for part in root.iter() for value in part.attrib.values() for name in _names(value)
    }
    for part in root.iter():
        if part.tag == f"{_SVG}style":
            part.text = _themed(part.text or "")
        part.text, part.tail = _unless_blank(part.text), _unless_blank(part.tail)
        if part.attrib.get("id") in used:
            part.attrib["id"] = own + part.attrib["id"]
        else:
            part.attrib.pop("id", None)
        for key, value in part.attrib.items():
            part.attrib[key] = _attribute(key, value, own)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "width": f"{width:.0f}",
        "role": "img",
        "aria-label": text.printable(alt),
    }
    return ElementTree.tostring(root, encoding="unicode"), own


def _unless_blank(words: str | None) -> str | None:
    """White space between elements says nothing."""
    return words if words and not words.isspace() else None


def _names(value: str) -> list[str]:
    """The ids that an attribute refers to."""
    return [link or url for link, url in _REFERENCE.findall(value)]


def _attribute(key: str, value: str, own: str) -> str:
    """A value in the page's colours and fonts, small, and with ids of this figure's own."""
    if key == "d":
        # A hundredth of a pixel is enough.
        return _DECIMALS.sub(
            lambda match: f"{float(match.group(0)):.2f}".rstrip("0").rstrip("."), value
        )
    if value.startswith(_PNG):
        return _webp(value.removeprefix(_PNG))
    if key == _HREF and value.startswith("#"):
        return f"#{own}{value[1:]}"
    return _themed(value).replace("url(#", f"url(#{own}")


def _themed(value: str) -> str:
    def variable(match: re.Match[str]) -> str:
        tone = _BY_PLACEHOLDER[match.group(0).lower()]
        return f"var(--{tone.css},{tone.light})"

    # Fonts: the page's own.
    value = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", value)
    value = re.sub(r"font-family: [^;]*;?", "", value)
    return _PLACEHOLDER.sub(variable, value)


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
