"""Names of other people's code: entry points, ``package.module:Name``, and whom to trust."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path

import numpy as np
import pytest
from command_line import here
from typer.testing import CliRunner

from situs import backbones, methods
from situs.backbones import AdaptedBackbone, Backbone, BackboneConfig
from situs.cli import app
from situs.cli.exits import Exit
from situs.errors import ConfigError
from situs.methods.mae import Mae
from situs.registry import Registry

DOCS = Path(__file__).parents[1] / "docs" / "extend.md"

_PLUGIN = """
import numpy as np
from situs.datasets.dataset import Case, Dataset
from situs.methods.mae import Mae
from situs.scans.scan import Provenance, Scan

class Other(Mae):
    name = "other"

def read(path, options):
    return Scan(np.load(path)[None], np.diag([1.0, 1.0, 2.0, 1.0]), "MR", Provenance("npy"))

def fits(path):
    return (path / "mine.txt").is_file()

def open_layout(path, options):
    cases = tuple(Case(f.stem, (f,), target=0) for f in path.glob("*.npy"))
    return Dataset(path, "mine", cases, {0: "a", 1: "b"}, "classification")
"""
_POINTS = """
[situs.methods]
other = plugin:Other
mae = plugin:Other
broken = plugin:Absent
[situs.readers]
npy = plugin
[situs.layouts]
mine = plugin
"""
_USED = """
import sys
from pathlib import Path
import situs
from situs.datasets.dataset import open_dataset
assert situs.methods.available()[-2:] == ["broken", "other"], situs.methods.available()
assert situs.methods.build("other").name == "other"
assert situs.methods.build("mae").name == "mae", "names of situs cannot be taken"
folder = Path(sys.argv[1])
assert situs.read_scan(folder / "a.npy").spacing == (1, 1, 2)
data = open_dataset(folder)
assert data.layout == "mine" and data.read(data.cases[0])[0].shape == (4, 5, 6)
try:
    situs.methods.build("broken")
except situs.SitusError as error:
    assert "method 'broken' of the installed package 'plugin'" in str(error), error
"""


@pytest.mark.slow
def test_an_installed_package_adds_names(tmp_path: Path) -> None:
    site, data = tmp_path / "site", tmp_path / "data"
    (site / "plugin-1.0.dist-info").mkdir(parents=True)
    data.mkdir()
    (site / "plugin.py").write_text(_PLUGIN)
    (site / "plugin-1.0.dist-info" / "METADATA").write_text("Name: plugin\nVersion: 1.0\n")
    (site / "plugin-1.0.dist-info" / "entry_points.txt").write_text(_POINTS)
    (data / "mine.txt").touch()
    np.save(data / "a.npy", np.random.default_rng(0).random((4, 5, 6)))
    # Installed while a process runs that has asked already, as in a notebook.
    before = "import sys, situs; assert 'other' not in situs.methods.available()"
    code = f"{before}; sys.path.insert(0, {str(site)!r}){_USED}"
    done = subprocess.run([sys.executable, "-c", code, str(data)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_packages_are_looked_for_again_where_one_was_installed_and_only_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    asked: list[str] = []

    def counted(group: str) -> EntryPoints:
        asked.append(group)
        return entry_points(group=group)

    monkeypatch.setattr("situs.registry.entry_points", counted)
    registry = Registry("method", "situs.methods", {}, Mae)
    assert "other" not in registry.names()
    for _ in range(100):  # a study asks for each of its jobs
        registry.names()
    assert asked == ["situs.methods"]
    (tmp_path / "plugin-1.0.dist-info").mkdir()
    (tmp_path / "plugin-1.0.dist-info" / "METADATA").write_text("Name: plugin\nVersion: 1.0\n")
    (tmp_path / "plugin-1.0.dist-info" / "entry_points.txt").write_text(_POINTS)
    assert "other" in registry.names()


def test_a_class_can_be_named_by_its_place() -> None:
    assert type(methods.build("situs.methods.mae:Mae")) is Mae
    config = BackboneConfig(name="situs.backbones.cnn:Cnn", options={"channels": [4, 8]})
    assert backbones.build(config).channels == (4, 8)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "sptial",
            r"unknown method 'sptial' \(did you mean 'spatial'\?\); known: spatial, .*:Name",
        ),
        ("no.such.module:X", "module 'no.such.module' cannot be imported"),
        ("situs.methods.mae:Mea", r"method .*unknown name 'Mea' \(did you mean 'Mae'\?\)"),
        ("situs.backbones.cnn:Cnn", r"cannot be used as method: it is no subclass of .*Method"),
        ("os:system", "cannot be used as method"),
    ],
)
def test_what_is_no_method_is_refused_by_name(name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        methods.build(name)


@pytest.mark.parametrize(("typed", "meant"), [("cnnn", "cnn"), ("vits", "vit_s")])
def test_an_unknown_network_is_told_with_all_that_situs_backbones_lists(
    typed: str, meant: str
) -> None:
    listed = CliRunner().invoke(app, ["backbones", "--json"]).stdout
    with pytest.raises(ConfigError, match=rf"'{typed}' \(did you mean '{meant}'\?\)") as told:
        backbones.build(BackboneConfig(name=typed))
    known = str(told.value).partition("known: ")[2].split(", ")
    assert known == [*(row["name"] for row in json.loads(listed)), "package.module:Name"]


def test_code_that_only_a_file_names_must_be_imported_already() -> None:
    registry = Registry("backbone", "situs.backbones", {}, Backbone)
    with pytest.raises(ConfigError, match=r"situs --import antigravity"):
        registry.load("antigravity:geohash", trusted=False)
    assert "antigravity" not in sys.modules
    assert registry.load("situs.backbones.cnn:Cnn", trusted=False).__name__ == "Cnn"


def _snippet() -> str:
    (code,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    return str(code)


def _situs(folder: Path, *args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "situs", *args]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_network_of_the_docs_is_pretrained_exported_and_not_trusted_blindly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_net.py").write_text(_snippet())
    nib = pytest.importorskip("nibabel")
    rng = np.random.default_rng(0)
    for n in range(2):
        image = nib.Nifti1Image(rng.random((16, 16, 16)).astype(np.float32), np.eye(4))
        nib.save(image, tmp_path / f"s{n}.nii")
    sets = ("steps=1", "options.view_size=[16,16,16]", "backbone.options={widths: [4, 8]}")
    done = _situs(
        tmp_path,
        *("pretrain", "--method", "situs.methods.mae:Mae", "--backbone", "my_net:MyNet"),
        *("--data", "s0.nii", "--data", "s1.nii", "--out", "run", "--no-report", "--quiet"),
        *("--set", "workers=0", *(word for one in sets for word in ("--set", one))),
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.delitem(sys.modules, "my_net", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` does: it could be imported
    said = here(Exit.REFUSED, "export", "run", "--to", "safetensors", "--out", "a")
    assert "my_net" not in sys.modules
    assert "situs --import my_net" in " ".join(said.split())
    here(Exit.DONE, "--import", "my_net", "export", "run", "--to", "safetensors", "--out", "a")
    del sys.modules["my_net"]


def test_an_adapted_network_says_what_it_cannot_take() -> None:
    space: dict[str, type[AdaptedBackbone]] = {}
    exec(_snippet(), space)
    config = BackboneConfig(name="my_net:MyNet", options={"wdiths": [4, 8]})
    with pytest.raises(ConfigError, match="unexpected keyword argument 'wdiths'"):
        space["MyNet"].from_config(config)

    class Reversed(space["MyNet"]):  # type: ignore[name-defined, misc]
        @staticmethod
        def make(spatial_dims: int, in_channels: int) -> object:
            network = space["Encoder"](spatial_dims, in_channels, (4, 8))
            forward = network.forward
            network.forward = lambda image: forward(image)[::-1]
            return network

    with pytest.raises(ConfigError, match="fine to coarse"):
        Reversed.from_config(BackboneConfig())
