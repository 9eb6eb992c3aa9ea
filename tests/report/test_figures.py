"""Figures: every panel kind, its alternative text, and what an SVG must not hold."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import report_samples as samples
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.patches import Patch
from PIL import Image
from scipy.spatial.transform import Rotation

from situs import text
from situs.methods.planes import scoring
from situs.observation import (
    PANELS,
    BoxesPanel,
    LinesPanel,
    MatchesPanel,
    OverlayPanel,
    Panel,
    ScatterPanel,
    Volume,
)
from situs.report import figures, scene, style
from situs.report.figures.boxes import legend_tile, roles_of
from situs.report.figures.data import intensity_histogram
from situs.report.figures.lines import clip, line_errors, upright
from situs.report.figures.training import loss_caption, loss_tiles

ALL = samples.panels(np.random.default_rng(0))


@pytest.mark.parametrize("name", list(ALL))
def test_every_kind_is_drawn_as_small_self_contained_svg(name: str) -> None:
    for tile in figures.draw(ALL[name]):
        root = ElementTree.fromstring(tile.svg)
        assert root.get("role") == "img"
        assert len(root.get("aria-label", "")) > 10
        # Names of the format are the only addresses.
        addresses = set(re.findall(r"https?://[^\s\"'<]+", tile.svg))
        assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
        assert len(tile.svg) < 130_000
        assert "image/png" not in tile.svg
        assert not re.search("#0101", tile.svg), "a placeholder colour was left"


def test_all_kinds_are_covered() -> None:
    assert {panel.kind for panel in ALL.values()} == set(PANELS)


def test_an_unknown_kind_is_refused_by_name() -> None:
    class Hologram(Panel):
        kind = "hologram"

    with pytest.raises(ValueError, match=r"hologram.*matrix"):
        figures.draw(Hologram(title="x"))


def test_matches_are_shown_in_tissue_not_in_air() -> None:
    """Seven wrong matches lie in an empty slice, six right ones in a slice with tissue."""
    array = np.zeros((24, 24, 24), np.float32)
    array[:, :, 18] = 100.0
    volume = Volume(array, np.eye(4), "scan")
    points = np.asarray(
        [[2 + 3 * n, 8, 5] for n in range(7)] + [[2 + 3 * n, 9, 18] for n in range(6)]
    )
    right = points[:, 2] == 18
    drawn = figures.draw(
        MatchesPanel(
            title="Matches",
            left=volume,
            right=volume,
            left_vox=points,
            predicted_vox=points + np.where(right, 0, 4)[:, None],
            true_vox=points,
            right_or_wrong=right,
        )
    )
    assert drawn[1].heading == "axial: 6 of 13 right"
    assert drawn[-1].heading == "how far off, in mm (0 mm on average)"


def test_the_scan_shows_through_a_heat_map() -> None:
    picture = figures.draw(ALL["heat"])[0]
    scan, heat = (
        Image.open(io.BytesIO(base64.b64decode(code)))
        for code in re.findall(r"data:image/webp;base64,([^\"]+)", picture.svg)[:2]
    )
    assert scan.size == heat.size
    opacity = np.asarray(heat.convert("RGBA"))[..., 3]
    assert 90 < opacity.max() < 160


def test_ids_belong_to_their_figure_and_can_be_renamed() -> None:
    (tile,) = figures.draw(ALL["scatter"])
    ids = re.findall(r' id="([^"]+)"', tile.svg)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', tile.svg))
    assert used == set(ids)
    assert all(i.startswith(tile.own) for i in ids)
    renamed = tile.renamed("f7-")
    assert set(re.findall(r' id="([^"]+)"', renamed)) == {i.replace(tile.own, "f7-") for i in ids}
    ElementTree.fromstring(renamed)


def test_charts_follow_the_theme_and_hostile_text_stays_text() -> None:
    panel = ScatterPanel(
        title="<b>&\x1b",
        predicted=np.arange(4.0),
        true=np.arange(4.0),
        quantity="<script>alert(1)</script> $\\frac{",
        groups=("</svg><script>x</script>", "$a_", "c", "d"),
    )
    (tile,) = figures.draw(panel)
    root = ElementTree.fromstring(tile.svg)
    assert not [e for e in root.iter() if e.tag.endswith("script")]
    assert "<b>" in root.get("aria-label", "")
    texts = [e.text for e in root.iter() if e.tag.endswith("text")]
    assert "</svg><script>x</script>" in texts
    assert f"var(--true,{style.TONES['true'].light})" in tile.svg


def test_prediction_and_truth_differ_in_colour_line_and_marker() -> None:
    for one, two in (("predicted", "true"), ("right", "wrong")):
        assert style.on_scan(one) != style.on_scan(two)
        assert style.LINES[one]["linestyle"] != style.LINES[two]["linestyle"]
        assert style.MARKERS[one] != style.MARKERS[two]


def contrast(one: str, two: str) -> float:
    def luminance(colour: str) -> float:
        values = np.asarray([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    high, low = sorted((luminance(one), luminance(two)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("name", ["ink", "muted", "true", "predicted", "right", "wrong"])
def test_text_colours_are_readable_on_light_and_dark(name: str) -> None:
    """WCAG 2.2 AA asks for 4.5:1."""
    tone, panel = style.TONES[name], style.TONES["panel"]
    assert contrast(tone.light, panel.light) >= 4.5
    assert contrast(tone.dark, panel.dark) >= 4.5


def test_lines_are_clipped_and_their_errors_are_physical() -> None:
    ends = clip(np.asarray([0.0, 1.0, -3.0]), (8, 10))
    assert ends is not None
    np.testing.assert_allclose(sorted(ends.tolist()), [[-0.5, 3], [9.5, 3]])
    assert clip(np.asarray([0.0, 1.0, 5.0]), (8, 10)) is None
    # Two rows apart at 4 mm between rows; then 45° in mm, though steeper in pixels.
    angle, distance = line_errors(
        np.asarray([0, 1.0, -5]), np.asarray([0, 1.0, -3]), (8, 10), (4.0, 1.0)
    )
    assert (angle, distance) == pytest.approx((0.0, 8.0), abs=1e-6)
    slanted = np.asarray([0.25, -1.0, 0.0]) / np.hypot(0.25, 1)
    angle, _ = line_errors(slanted, np.asarray([0, 1.0, 0]), (8, 10), (4.0, 1.0))
    assert angle == pytest.approx(45.0)


def test_a_line_s_figure_says_what_its_score_counts() -> None:
    """Lines that cross in the middle are not 0 mm apart; the figure and the score agree."""
    true = np.asarray([[0.0, 1.0, -15.5]])
    crossing = np.asarray([[1.0, 0.0, -15.5]])
    pixel = np.asarray([6.0])
    scored = scoring.line_errors(crossing[None], true[None], np.ones((1, 1), bool), (32, 32), pixel)
    drawn = line_errors(crossing[0], true[0], (32, 32), (6.0, 6.0))
    assert drawn == pytest.approx((scored.angle_deg.item(), scored.distance_mm.item()))
    assert drawn[1] == pytest.approx(32 * 6 / 4)


def test_views_are_told_apart_in_figures_and_scenes() -> None:
    panel = ALL["boxes"]
    assert isinstance(panel, BoxesPanel)
    roles = roles_of(panel)
    colours = [style.on_scan(role) for role in roles]
    assert len({*colours[:2]}) == 2, "view 1 and view 2 have one colour"
    assert roles[2:] == list(panel.roles[2:])
    built = scene.build(panel, scene.Assets())
    assert built is not None
    views = {layer.name: layer.colour for layer in built.layers if layer.name.startswith("view")}
    assert len(set(views.values())) == len(views) == 2


def test_matches_show_few_by_number_and_the_miss_of_all() -> None:
    panel = ALL["matches"]
    _, left, found, miss = figures.draw(panel)
    # Nine points lie in the slice; numbered are three that are found best and three worst.
    assert "9 positions matched between two axial slices" in left.alt
    assert left.alt.endswith("; 6 are numbered")
    assert "where the network puts them" in found.alt
    assert "mm on average" in miss.heading


def test_errors_of_labels_are_a_map_with_their_volumes() -> None:
    panel = ALL["labels"]
    assert isinstance(panel, OverlayPanel)
    assert panel.true is not None
    tiles = figures.draw(panel)
    assert [t.heading for t in tiles if t.heading.startswith("errors")] == [
        f"errors, {plane}, worst slice" for plane in ("axial", "coronal", "sagittal")
    ]
    missed = ((panel.overlay == 0) & (panel.true > 0)).sum() * 0.027
    assert any(f"missed: {text.number(float(missed))} ml" in t.alt for t in tiles)
    perfect = figures.draw(replace(panel, overlay=panel.true))
    assert not any("errors" in t.heading for t in perfect)


def test_curves_name_their_axes() -> None:
    (tile,) = loss_tiles({"run": {"step": np.arange(5.0), "loss/total": np.ones(5)}})
    assert ">step</text>" in tile.svg
    assert ">loss</text>" in tile.svg


@pytest.mark.parametrize("kind", sorted(ALL))
def test_no_label_is_smaller_than_ten_pixels(kind: str) -> None:
    for tile in figures.draw(ALL[kind]):
        sizes = [
            float(size) for size in re.findall(r"font(?:-size)?: (?:bold )?([\d.]+)px", tile.svg)
        ]
        assert min(sizes, default=10.0) >= 10
        assert tile.wide or tile.width <= 330, "would be shrunk on a phone"


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([-1.0, 1.0]))
def test_an_image_of_lines_stands_upright_and_nothing_moves(seed: int, hand: float) -> None:
    rng = np.random.default_rng(seed)
    axes = Rotation.random(random_state=seed).as_matrix() * [1, hand, 1]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = axes * [2.0, 3.0, 1.0], rng.normal(size=3)
    points = rng.uniform(0, 4, (2, 2, 2))
    along = points[:, 1] - points[:, 0]
    normal = np.stack([along[:, 1], -along[:, 0]], -1) / np.linalg.norm(along, axis=-1)[:, None]
    lines = np.concatenate([normal, -(normal * points[:, 0]).sum(-1, keepdims=True)], -1)
    image = rng.random((5, 7))
    before = LinesPanel(
        title="x",
        image=image,
        spacing=(3.0, 2.0),
        predicted=lines,
        true=lines[::-1],
        heatmaps=2 * image[None],
        names=("a", "b"),
        affine=affine,
    )
    after = upright(before)
    back = np.linalg.inv(affine) @ np.asarray(after.affine)
    for (row, column), value in np.ndenumerate(after.image):
        old = (back @ [column, row, 0, 1]).round().astype(int)
        assert image[old[1], old[0]] == value == after.heatmaps[0, row, column] / 2
    place = np.linalg.inv(back) @ np.concatenate([points[:, 0].T, [[0, 0], [1, 1]]])
    for name, drawn in (("predicted", after.predicted), ("true", after.true[::-1])):
        np.testing.assert_allclose(
            (drawn[:, :2] * place[:2].T).sum(-1) + drawn[:, 2], 0, atol=1e-9, err_msg=name
        )
    column, row = np.asarray(after.affine)[:3, :2].T
    np.testing.assert_allclose(np.linalg.norm([row, column], axis=1), after.spacing)
    thick = np.abs(axes[:, 2]).argmax()
    assert row[2 if thick < 2 else 1] < 0
    assert column[0 if thick else 1] < 0


def test_tissue_is_seen_beside_a_background_of_one_value():
    rng = np.random.default_rng(0)
    tissue = rng.normal(0, 0.5, (20, 20, 20))
    whole = intensity_histogram([Volume(tissue, np.eye(4))]).svg
    assert " lie at " not in whole
    most = np.where(np.arange(20)[:, None, None] < 13, -2.0, tissue)
    drawn = intensity_histogram([Volume(most, np.eye(4))]).svg
    assert re.search(r"65 % lie at −(2|1\.9)", drawn)


def test_the_caption_of_losses_speaks_of_an_average_where_one_is_drawn() -> None:
    short, long = ({"loss/total": np.r_[np.ones(n), np.nan]} for n in (49, 50))
    assert "averaged" not in loss_caption(short)
    assert "averaged over 4 % of the run" in loss_caption(long)


def test_a_legend_is_as_wide_as_its_words() -> None:
    """Of the demo's five none scrolls beside the contents, in a window of 1280 pixels."""
    names = ("CSF and other", "grey matter", "white matter", "true: filled", "predicted: outline")
    drawn = legend_tile([Patch(label=name) for name in names], "Labels")
    assert 650 < drawn.width < 900
