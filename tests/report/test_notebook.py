"""Notebook displays: they draw, escape, and cost nothing until they are asked for."""

from __future__ import annotations

import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import report_samples as samples

from situs.errors import SitusError
from situs.observation import MatrixPanel, Observation, Section
from situs.report import display, notebook
from situs.scans.scan import Scan
from situs.training.run import Run


def test_an_observation_shows_scores_and_figures() -> None:
    seen = samples.observation(hostile="<script>x()</script>")
    light = Observation(seen.method, 7, (seen.sections[0],), warnings=seen.warnings)
    shown = display.html(light)
    assert "spatial at step 7" in shown
    assert "31.2 mm" in shown
    assert shown.count("<svg") >= 3
    assert "<script" not in shown
    assert "&lt;script&gt;" in shown


def test_a_run_and_a_scan_show_themselves(light_run: Path) -> None:
    assert "where a constant answer gives" in display.html(Run(light_run))
    array = np.random.default_rng(0).random((2, 12, 10, 8))
    shown = display.html(Scan(array, np.diag([1.0, 1, 2.5, 1]), "MR"))
    assert "12 × 10 × 8 voxels of 1 × 1 × 2.5 mm, 2 channels" in shown
    assert shown.count("<svg") == 3


@pytest.mark.slow
@pytest.mark.parametrize("first", ["shell", "situs"])
def test_ipython_shows_a_scan_as_a_page_and_everything_else_as_before(first: str) -> None:
    script = """
import sys
if sys.argv[1] == "situs":
    import situs
from IPython.core.interactiveshell import InteractiveShell
shell = InteractiveShell.instance()
if sys.argv[1] == "situs":
    shell.run_line_magic("load_ext", "situs")
import numpy as np
import situs
assert "matplotlib" not in sys.modules
scan = situs.Scan(np.zeros((1, 5, 6, 7)), np.eye(4), "CT")
html = shell.display_formatter.format(scan)[0]["text/html"]
assert "5 × 6 × 7 voxels" in html and html.count("<svg") == 3
assert "text/html" not in shell.display_formatter.format(scan.array)[0]
assert {type(situs.Run("x")).__module__, situs.Observation.__module__} == {
    module for module, name in situs._SHOWN if name != "Scan"
}
"""
    done = subprocess.run([sys.executable, "-c", script, first], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_importing_an_observation_draws_nothing_in() -> None:
    code = "import sys, situs.observation; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_viewer_names_what_is_missing_or_flat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipyniivue", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(SitusError, match=r"situs\[notebook\]"):
        notebook.view(samples.template())


class Item:
    """Stands for a volume or a mesh of the viewer."""

    def __init__(self, **given: Any) -> None:
        self.given = given

    def set_colormap_label(self, colours: dict[str, list[Any]]) -> None:
        self.given["colours"] = colours


class Widget(Item):
    """Stands for the viewer."""

    def load_volumes(self, volumes: list[Item]) -> None:
        self.volumes = volumes

    def load_meshes(self, meshes: list[Item]) -> None:
        self.meshes = meshes


@pytest.fixture(params=["real", "stand-in"])
def viewer(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The package itself where it is installed, and something that only records."""
    if request.param == "real":
        pytest.importorskip("ipyniivue", reason="the notebook extra is not installed")
    else:
        module = ModuleType("ipyniivue")
        module.__dict__.update(NiiVue=Widget, Volume=Item, Mesh=Item)
        module.__spec__ = ModuleSpec("ipyniivue", None)
        monkeypatch.setitem(sys.modules, "ipyniivue", module)
    return str(request.param)


def test_the_viewer_holds_the_scan_and_its_layers(viewer: str) -> None:
    panels = samples.panels(np.random.default_rng(0))
    widget = notebook.view(panels["arrows"])
    assert len(widget.volumes) == 1
    assert len(widget.meshes) == 3
    labels = notebook.view(panels["labels"]).volumes
    assert len(labels) == 4
    if viewer == "stand-in":
        assert [v.given["opacity"] for v in labels] == [1.0, 0.55, 0.0, 0.0]
        assert [m.given["rgba255"][:3] for m in widget.meshes[:2]] == [
            [108, 200, 255],
            [255, 162, 74],
        ]
        colours = labels[1].given["colours"]
        assert colours["labels"] == ["background", "grey matter", "white matter"]
        assert [colours[c][1] for c in "RGBA"] == [0x56, 0xB4, 0xE9, 255]
        assert colours["A"][0] == 0
    with pytest.raises(ValueError, match="three dimensions"):
        notebook.view(MatrixPanel(title="m", predicted=np.eye(2), true=np.eye(2)))


def test_a_section_without_scores_or_panels_is_fine() -> None:
    shown = display.html(Observation("x", 0, (Section("empty", "nothing"),)))
    assert "empty" in shown
