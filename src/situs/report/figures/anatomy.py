"""Slices of a scan as a radiologist expects them: true proportions, directions, scale in mm.

Any orientation of the array is shown the same way: the patient's right on the left of the
image, anterior or superior at the top, anterior on the left of a sagittal slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import nibabel as nib
import numpy as np
import numpy.typing as npt
from matplotlib import patheffects
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from situs.observation import Volume
from situs.observation.panels import Array
from situs.report import style

PLANES = ("axial", "coronal", "sagittal")
# For each plane: the axis across it, the axis to the right of the page, the axis up the page.
_AXES = {"axial": (2, 0, 1), "coronal": (1, 0, 2), "sagittal": (0, 1, 2)}
_LETTERS = (("L", "R"), ("P", "A"), ("I", "S"))
# A direction gets a second letter from this share on (as in DICOM's patient orientation).
_SECOND_LETTER = 0.35
# Up to this tilt, an axis is labelled with the scanner's own coordinates.
_ALIGNED = 0.985
_THIN_VOX = 4
# Where a scale bar may be: at the left of the page, and at its bottom; the first is usual.
_CORNERS = ((True, True), (False, True), (True, False), (False, False))
# Pixels around it: letters of a browser are not quite as wide as they were measured.
_CLEAR = 3
HALO: list[patheffects.AbstractPathEffect] = [
    patheffects.withStroke(linewidth=2.4, foreground="#000000a0")
]


@dataclass(frozen=True)
class Canonical:
    """A volume with its array axes permuted and flipped closest to R, A, S.

    Attributes:
        array: ``(X, Y, Z)`` or ``(X, Y, Z, 3)``.
        affine: ``(4, 4)`` of the reordered array.
        from_vox: ``(4, 4)``, the original array's voxel coordinates to the reordered ones.
    """

    array: Array
    affine: Array
    from_vox: Array

    @property
    def spacing(self) -> npt.NDArray[np.float64]:
        """Millimetres between voxel centres along each reordered axis."""
        return np.linalg.norm(self.affine[:3, :3], axis=0)

    def points(self, points_vox: Array) -> npt.NDArray[np.float64]:
        """``(…, 3)`` voxel coordinates of the original array, in the reordered one."""
        points = np.asarray(points_vox, dtype=float)
        return points @ self.from_vox[:3, :3].T + self.from_vox[:3, 3]


def canonical(array: Array, affine: Array) -> Canonical:
    """Reorder an array so that its axes point closest to right, anterior, superior.

    Raises:
        ValueError: If an axis has no direction.
    """
    affine = np.asarray(affine, dtype=float)
    orientation = nib.orientations.io_orientation(affine)
    if np.isnan(orientation).any():
        raise ValueError(f"affine has a zero column: {affine.tolist()}")
    reordered = nib.orientations.apply_orientation(array, orientation)
    to_vox = nib.orientations.inv_ornt_aff(orientation, array.shape[:3])
    return Canonical(reordered, affine @ to_vox, np.linalg.inv(to_vox))


def letters(direction: Array) -> str:
    """The anatomical letters a direction in RAS mm points to, for instance ``"R"`` or ``"RA"``."""
    unit = np.asarray(direction, dtype=float) / (np.linalg.norm(direction) or 1.0)
    order = np.argsort(-np.abs(unit))
    chosen = [a for n, a in enumerate(order) if n == 0 or abs(unit[a]) > _SECOND_LETTER]
    return "".join(_LETTERS[a][int(unit[a] > 0)] for a in chosen[:2])


def planes_of(shape: Sequence[int]) -> tuple[str, ...]:
    """The planes worth showing: all three, or the one of a (nearly) flat volume."""
    thin = [axis for axis, size in enumerate(shape[:3]) if size < _THIN_VOX]
    if not thin:
        return PLANES
    return tuple(p for p in PLANES if _AXES[p][0] == min(thin, key=lambda a: shape[a]))


def window(array: Array) -> tuple[float, float]:
    """Grey-value limits that show a scan well: the 0.5th and 99.5th percentile of its content."""
    values = np.asarray(array, dtype=float)
    values = values[np.isfinite(values)]
    content = values[values != 0] if np.count_nonzero(values) > 100 else values
    if content.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(content, [0.5, 99.5])
    low = min(float(low), float(np.percentile(values, 2)))
    return low, float(high) if high > low else low + 1.0


@dataclass(frozen=True)
class SliceView:
    """One plane of a canonical volume, ready to draw on: all plot coordinates are in mm.

    Attributes:
        volume: The reordered volume.
        plane: ``"axial"``, ``"coronal"`` or ``"sagittal"``.
        index: Slice number along the plane's axis.
    """

    volume: Canonical
    plane: str
    index: int

    @property
    def axes(self) -> tuple[int, int, int]:
        """The axis across it, the horizontal axis and the vertical axis."""
        return _AXES[self.plane]

    @property
    def size_mm(self) -> tuple[float, float]:
        """Width and height."""
        _, h, v = self.axes
        shape, spacing = self.volume.array.shape, self.volume.spacing
        return shape[h] * spacing[h], shape[v] * spacing[v]

    def start_mm(self, axis: int) -> float:
        """Plot coordinate of voxel 0 along an axis: the scanner's own where that is defined."""
        direction = self.volume.affine[:3, axis] / self.volume.spacing[axis]
        if abs(direction[axis]) >= _ALIGNED:
            return float(self.volume.affine[axis, 3])
        return -0.5 * (self.volume.array.shape[axis] - 1) * float(self.volume.spacing[axis])

    def plot(self, points_vox: Array) -> npt.NDArray[np.float64]:
        """``(…, 3)`` reordered voxel coordinates → ``(…, 2)`` plot coordinates in mm."""
        points = np.asarray(points_vox, dtype=float)
        columns = [
            self.start_mm(axis) + points[..., axis] * self.volume.spacing[axis]
            for axis in self.axes[1:]
        ]
        return np.stack(columns, axis=-1)

    def image(self, array: Array | None = None) -> Array:
        """The slice ``(vertical, horizontal[, 3])`` of the volume or of an array on its grid."""
        source = self.volume.array if array is None else array
        plane = np.take(source, self.index, axis=self.axes[0])
        return np.swapaxes(plane, 0, 1)

    @property
    def extent(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top edges of the image for ``imshow`` with ``origin="lower"``."""
        shape, spacing = self.volume.array.shape, self.volume.spacing
        _, h, v = self.axes
        left, bottom = (self.start_mm(a) - 0.5 * float(spacing[a]) for a in (h, v))
        return (
            left,
            left + shape[h] * float(spacing[h]),
            bottom,
            bottom + shape[v] * float(spacing[v]),
        )


def slice_view(volume: Canonical, plane: str, at_vox: float | None = None) -> SliceView:
    """The slice of ``plane`` nearest to ``at_vox`` along its axis (the middle by default)."""
    axis = _AXES[plane][0]
    size = volume.array.shape[axis]
    index = size // 2 if at_vox is None or not np.isfinite(at_vox) else round(at_vox)
    return SliceView(volume, plane, int(np.clip(index, 0, size - 1)))


def views_at(volume: Canonical, point_vox: Array | None = None) -> list[SliceView]:
    """The slices through a point, in every plane worth showing."""
    views = []
    for plane in planes_of(volume.array.shape):
        at = None if point_vox is None else float(point_vox[_AXES[plane][0]])
        views.append(slice_view(volume, plane, at))
    return views


# Around an image: tick labels on the left, ticks and "mm" below.
_LEFT, _BOTTOM, _EDGE = 36.0, 31.0, 2.0


def figure_size(
    view: SliceView, width: float = 258.0, tallest: float = 344.0, ticks: bool = True
) -> tuple[float, float]:
    """Width and height in CSS pixels of a figure that shows ``view`` at its true proportions."""
    wide, high = view.size_mm
    margin_x, margin_y = (_LEFT + _EDGE, _BOTTOM + _EDGE) if ticks else (2 * _EDGE, 2 * _EDGE)
    inner = width - margin_x
    height = inner * high / wide
    if height > tallest:
        inner, height = tallest * wide / high, tallest
    return max(inner, 70.0) + margin_x, max(height, 24.0) + margin_y


def image_axes(figure: Figure, ticks: bool = True, right: float = _EDGE) -> Axes:
    """Axes with the margins that :func:`figure_size` counts on."""
    left, bottom = (_LEFT, _BOTTOM) if ticks else (_EDGE, _EDGE)
    return style.axes(figure, left, bottom, right, _EDGE)


def draw_slice(
    axes: Axes,
    view: SliceView,
    limits: tuple[float, float] | None = None,
    ticks: bool = True,
    bar: bool = True,
) -> None:
    """The slice in grey, with directions, a scale bar and ticks in mm.

    Without ``bar``, :func:`scale_bar` is for who has drawn more.
    """
    image = view.image()
    axes.set_facecolor("#000000")
    if image.ndim == 3:
        axes.imshow(np.clip(image, 0, 1), extent=view.extent, origin="lower", aspect="equal")
    else:
        low, high = limits or window(view.volume.array)
        axes.imshow(
            image,
            cmap="gray",
            vmin=low,
            vmax=high,
            extent=view.extent,
            origin="lower",
            aspect="equal",
        )
    frame(axes, view, ticks, bar)


def frame(axes: Axes, view: SliceView, ticks: bool = True, bar: bool = True) -> None:
    """Directions, scale bar and ticks around an image that is already drawn."""
    left, right, bottom, top = view.extent
    # The patient's right (and anterior, on a sagittal slice) belongs on the left of the page.
    axes.set_xlim(right, left)
    axes.set_ylim(bottom, top)
    for side in ("top", "right", "left", "bottom"):
        axes.spines[side].set_visible(False)
    if ticks:
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_xlabel("mm", labelpad=1)
    else:
        axes.set_xticks([])
        axes.set_yticks([])
    _, h, v = view.axes
    directions(axes, view.volume.affine[:3, h], view.volume.affine[:3, v])
    if bar:
        scale_bar(axes, view)


def directions(axes: Axes, to_left: Array, up: Array) -> None:
    """Anatomical letters at the four edges of an image.

    Args:
        axes: That the image is drawn in.
        to_left: RAS direction that points to the left of the page.
        up: RAS direction that points up the page.
    """
    for x, y, ha, va, direction in (
        (0.02, 0.5, "left", "center", to_left),
        (0.98, 0.5, "right", "center", -to_left),
        (0.5, 0.98, "center", "top", up),
        (0.5, 0.02, "center", "bottom", -up),
    ):
        axes.text(
            x,
            y,
            letters(direction),
            transform=axes.transAxes,
            color="#ffffff",
            fontsize=11,
            fontweight="bold",
            ha=ha,
            va=va,
            path_effects=HALO,
        )


def scale_bar(axes: Axes, view: SliceView, clear_of: Iterable[Artist] = ()) -> None:
    """A length in mm, in the lower left corner or the next that is free.

    Args:
        axes: That the image is drawn in.
        view: What is drawn.
        clear_of: What it must not lie on. Where every corner holds some, it is the lower left.
    """
    taken = [artist.get_window_extent().padded(_CLEAR) for artist in clear_of]
    for corner in _CORNERS if taken else ():
        drawn = _draw_bar(axes, view, *corner)
        boxes = [artist.get_window_extent() for artist in drawn]
        if not any(box.overlaps(other) for box in boxes for other in taken):
            return
        for artist in drawn:
            artist.remove()
    _draw_bar(axes, view, *_CORNERS[0])


def _draw_bar(axes: Axes, view: SliceView, at_left: bool, at_bottom: bool) -> tuple[Artist, Artist]:
    """The bar and its label in a corner of the page."""
    left, right, bottom, top = view.extent
    length = _round_length(0.3 * (right - left))
    inset = 0.05 * (right - left)
    # On the page x grows to the left. A bar may be shorter than its label, which goes inwards.
    x, inwards = (right - inset, -length) if at_left else (left + inset, length)
    y = bottom + 0.045 * (top - bottom) if at_bottom else top - 0.045 * (top - bottom)
    (bar,) = axes.plot(
        [x, x + inwards],
        [y, y],
        color="#ffffff",
        linewidth=2,
        solid_capstyle="butt",
        path_effects=HALO,
    )
    label = axes.annotate(
        f"{length:g} mm",
        (x, y),
        xytext=(0, 2.5 if at_bottom else -2.5),
        textcoords="offset points",
        color="#ffffff",
        fontsize=11,
        ha="left" if at_left == axes.xaxis_inverted() else "right",
        va="bottom" if at_bottom else "top",
        path_effects=HALO,
    )
    return bar, label


def _round_length(most: float) -> float:
    """The largest 1, 2 or 5 times a power of ten that is not above ``most``."""
    power = 10.0 ** np.floor(np.log10(max(most, 1e-6)))
    return float(max(f * power for f in (1, 2, 5) if f * power <= most * (1 + 1e-9)))


def describe(view: SliceView) -> str:
    """The view in words, for alternative texts."""
    wide, high = view.size_mm
    return f"{view.plane} slice, {wide:.0f} by {high:.0f} mm"


def of(volume: Volume) -> Canonical:
    """:func:`canonical` of a panel's volume."""
    return canonical(np.asarray(volume.array), volume.affine)
