"""What headers of NRRD and MetaImage say of lengths, axes and space, before ITK is asked.

ITK takes what it does not understand for 1 mm, and any space for one of the body's.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from pathlib import Path

from situs.scans import quality
from situs.scans.refusals import refuse

_SPACING_KEYS = ("spacings", "elementspacing", "elementsize")
_UNITS_MM = {
    name: factor
    for factor, names in {
        1e-6: "nm,nanometer,nanometers,nanometre,nanometres",
        1e-3: "um,µm,μm,micron,microns,micrometer,micrometers,micrometre,micrometres",
        1.0: "mm,millimeter,millimeters,millimetre,millimetres",
        10.0: "cm,centimeter,centimeters,centimetre,centimetres",
        1000.0: "m,meter,meters,metre,metres",
        25.4: "in,inch,inches",
    }.items()
    for name in names.split(",")
}
_NO_UNIT = ("", "?", "??", "???", "none", "unknown", "pixel", "pixels", "voxel", "voxels")


def check_spacing_text(fields: dict[str, str], path: Path) -> None:
    """Refuse voxel sizes that ITK would replace by 1, or turn the axis round for, silently.

    Raises:
        ScanRefused: ``bad-spacing``.
    """
    for key in _SPACING_KEYS:
        if key in fields:
            values = [as_number(text) for text in fields[key].split()]
            # NRRD says "nan" for an axis outside space, such as a list of components.
            known = [v for v in values if not math.isnan(v)]
            if key == "spacings" and len(known) >= min(3, len(values)):
                values = known
            quality.check_spacing(values, path)
    if not names_spacing(fields) and {"axis mins", "axis maxs"} <= fields.keys():
        # Whether they are a voxel's centre or its edge depends on a field that few write.
        detail = "voxel sizes stand in 'axis mins' and 'axis maxs'; situs reads 'spacings'"
        raise refuse("bad-spacing", path, detail)


def names_spacing(fields: dict[str, str]) -> bool:
    """Whether the header gives a size to its voxels."""
    return bool({"space directions", *_SPACING_KEYS} & fields.keys())


def unit_mm(fields: dict[str, str], path: Path) -> float | None:
    """Millimetres in the header's unit of length, None where it names none.

    Raises:
        ScanRefused: ``bad-spacing`` for units that are unknown or differ between axes of space.
    """
    if "distanceunits" in fields:
        names = _quoted(fields["distanceunits"])
    elif "space units" in fields:
        names = _quoted(fields["space units"])
    elif not {"space", "space dimension"} & fields.keys():
        names = [n for n in _quoted(fields.get("units", "")) if n not in ("s", "ms", "sec")]
    else:
        names = []
    known = {name for name in names if name not in _NO_UNIT}
    factors = {_UNITS_MM.get(name) for name in known}
    if None in factors:
        raise refuse("bad-spacing", path, "the header gives lengths in a unit that is not known")
    if len(factors) > 1 or 0 < sum(n in known for n in names) < min(3, len(names)):
        raise refuse("bad-spacing", path, "the header gives lengths in several units")
    return next(iter(factors), None)


def check_directions(fields: dict[str, str], path: Path) -> None:
    """Refuse NRRD axes of space without a direction: ITK takes them for 1 mm long.

    Raises:
        ScanRefused: ``bad-spacing``.
    """
    given = directions(fields)
    kinds = fields.get("kinds", "").lower().split()
    bare = [axis for axis, text in enumerate(given) if text == "none"]
    spatial = {"domain", "space"}
    if len(given) - len(bare) < min(3, len(given)) or any(
        kinds[axis] in spatial for axis in bare if axis < len(kinds)
    ):
        raise refuse("bad-spacing", path, "an axis of space has no direction")


def check_space(fields: dict[str, str], path: Path) -> list[str]:
    """A note where an NRRD's space tells no left from right; ITK takes any for LPS.

    Raises:
        ScanRefused: ``bad-orientation`` for one that is a mirror image of any of the body's.
    """
    space = fields.get("space", "").lower().removesuffix("-time")
    if space in ("3d-left-handed", "3dl", "3dlt"):
        raise refuse("bad-orientation", path, "the space is left-handed, and names no side")
    named = space not in ("3d-right-handed", "3dr", "3drt", "scanner-xyz", "sxyz", "sxyzt")
    return [] if named else ["the space names no direction of the body: taken as LPS"]


def directions(fields: dict[str, str]) -> list[str]:
    """The directions of an NRRD's axes as they are written, ``none`` among them."""
    return re.findall(r"none|\([^)]*\)", fields.get("space directions", "").lower())


def _quoted(text: str) -> list[str]:
    # Bytes were taken as Latin-1; µ may have been written in UTF-8.
    with suppress(UnicodeDecodeError):
        text = text.encode("latin-1").decode("utf-8")
    names = re.findall(r'"([^"]*)"', text) if '"' in text else text.split()
    return [name.strip().lower() for name in names]


def as_number(text: str) -> float:
    """The number that a text is, NaN where it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan
