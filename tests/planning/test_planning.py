from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from typer.testing import CliRunner

from situs.catalog.studies import by_role, load_rules
from situs.cli import app
from situs.demo.studies import write_demo_studies
from situs.errors import ConfigError, RunError
from situs.geometry import Plane, intersect
from situs.methods.planes import PlanesConfig
from situs.planning import Planner, plan, summarise
from situs.planning import planner as module
from situs.planning.planner import RolePlan, plan_study
from situs.pretraining.pretrain import pretrain
from situs.store import Store
from situs.training.run import Run
from situs.views import ArraySource

pytestmark = pytest.mark.slow


def body(seed: int) -> ArraySource:
    rng = np.random.default_rng(seed)
    shape = (36, 40, 32)
    mm = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    values = gaussian_filter(rng.normal(size=shape), 3) * 3 + mm[0] + 2 * mm[1] + 3 * mm[2]
    values += 8 * (np.linalg.norm(mm, axis=0) < 0.85)
    return ArraySource(values[None].astype(np.float32), np.diag([2.0, 2, 2, 1]), key=f"body{seed}")


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("studies")
    write_demo_studies([body(i) for i in range(3)], out, "knee")
    return out


@pytest.fixture(scope="module")
def run(studies: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A few steps on real-study data; the accuracy of lines is not at stake here."""
    return pretrain(
        {
            "method": "planes",
            "data": [studies],
            "out": tmp_path_factory.mktemp("runs") / "knee",
            "steps": 3,
            "batch_size": 2,
            "workers": 0,
            "observe_every": 0,
            "observe_samples": 2,
            "preprocessing": {"spacing": "native"},
            "options": {"rules": "knee", "size": [64, 64], "spacing_mm": 2.0, "slices": 2},
            "backbone": {"name": "cnn", "options": {"channels": [8, 8, 8]}},
        },
        quiet=True,
    )


def test_a_run_on_real_studies_knows_their_roles(run: Run) -> None:
    planner = Planner.load(run)
    assert planner.config.studies == "series"
    assert planner.config.roles == ("sagittal", "coronal", "axial")
    assert planner.preprocessing.spacing == "native"
    trained = np.concatenate([p.detach().numpy().ravel() for p in planner.network.parameters()])
    again = Planner.load(run).network.parameters()
    assert (trained == np.concatenate([p.detach().numpy().ravel() for p in again])).all()


def test_planning_with_true_lines_finds_the_acquired_planes(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the network: reading, slices, fitting and comparison."""
    study = Store.open(run.path / "store").studies()[0]
    targets = [s[0].middle_plane for s in by_role(study, load_rules("knee")).values()]

    def perfect(network, config, slices, planes):
        lines, visible = intersect(planes, targets)
        return lines, visible.astype(float)

    monkeypatch.setattr(module, "predict_lines", perfect)
    config = Planner.load(run).config
    plans = plan_study(Planner.load(run).network, config, study)
    assert [p.role for p in plans] == ["sagittal", "coronal", "axial"]
    for one in plans:
        assert one.angle_deg < 1e-5
        assert one.distance_mm < 1e-5
        assert one.residual_mm < 1e-5
        assert one.usable == one.looked_at == 12
        plane = one.as_dict()["plane_dicom"]
        assert np.linalg.norm(plane["ImageOrientationPatient"][:3]) == pytest.approx(1)
    # A role that no study of the training had: its heat map means nothing, however sure it looks.
    known = {role: config.frames[role] for role in ("sagittal", "coronal")}
    fewer = config.model_copy(update={"frames": known})
    assert [p.role for p in plan_study(Planner.load(run).network, fewer, study)] == list(known)
    (never,) = plan_study(Planner.load(run).network, fewer, study, ["axial"])
    assert never.plane is None
    assert never.reason.endswith("none of the studies it was trained on has 'axial'")


def test_plan_takes_held_out_scans_stores_and_folders(run: Run, studies: Path) -> None:
    by_default = plan(run.path)
    from_store = plan(run.path, [run.path / "store"])
    assert len(by_default) == len(from_store) == 9  # too few studies to hold any out
    from_folder = plan(run.path, [studies / "knee-001"], roles=["axial"])
    (same,) = [p for p in from_store if p.role == "axial" and p.study == from_folder[0].study]
    if same.plane is None:
        assert from_folder[0].reason == same.reason
    else:
        assert from_folder[0].angle_deg == pytest.approx(same.angle_deg, abs=0.5)
    with pytest.raises(ConfigError, match="did you mean 'axial'"):
        plan(run.path, roles=["axal"])


def test_a_summary_has_one_row_a_role_and_counts_what_failed() -> None:
    seen = [
        RolePlan("a", "sax", 3, plane=Plane(np.zeros(3), [1, 0, 0], [0, 1, 0], (2, 2), (1, 1)),
                 angle_deg=angle, distance_mm=2.0)
        for angle in (1.0, 3.0, 8.0)
    ]  # fmt: skip
    failed = RolePlan("a", "4ch", 3, reason="no line")
    sax, four, every = summarise([*seen, failed])
    assert (sax.role, sax.planned, sax.compared, sax.angle_deg) == ("sax", 3, 3, 3.0)
    assert (four.planned, four.not_planned, four.angle_deg) == (0, 1, None)
    assert (every.role, every.planned, every.not_planned) == ("all", 3, 1)
    assert [row.role for row in summarise(seen)] == ["sax"]


def test_virtual_studies_are_planned_from_random_slices(run: Run) -> None:
    planner = Planner.load(run)
    config = PlanesConfig(studies="virtual", size=(64, 64), spacing_mm=2.0)
    plans = plan_study(planner.network, config, [body(5)], views=6)
    assert [p.role for p in plans] == list(config.roles)
    assert all((p.plane is None) == bool(p.reason) for p in plans)


def test_a_run_of_another_method_plans_nothing(run: Run, tmp_path: Path) -> None:
    for name in ("run.json", "config.yaml"):
        (tmp_path / name).write_bytes((run.path / name).read_bytes())
    text = (tmp_path / "config.yaml").read_text().replace("planes", "spatial")
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RunError, match="--method planes"):
        plan(tmp_path)


def test_verbs_print_tables_and_json(run: Run, studies: Path, tmp_path: Path) -> None:
    runner = CliRunner()
    shown = runner.invoke(app, ["studies", str(studies), "--rules", "knee"])
    assert shown.exit_code == 0, shown.output
    assert "3 studies, 3 with two roles" in shown.output
    none = runner.invoke(app, ["studies", str(studies), "--rules", "heart", "--json"])
    assert none.exit_code == 2
    rows = json.loads(none.stdout)
    assert all("no word for" in row["recognised"]["reason"] for row in rows)
    file = tmp_path / "planes.json"
    arguments = ["plan", str(run.path), str(studies / "knee-000"), "--out", str(file)]
    planned = runner.invoke(app, [*arguments, "--json"])
    document = json.loads(planned.stdout)
    assert planned.exit_code == int(document["summary"][-1]["not_planned"] > 0)
    assert json.loads(file.read_text()) == document["planes"]
    assert {p["role"] for p in document["planes"]} == {"sagittal", "coronal", "axial"}
    assert "plane" in runner.invoke(app, arguments).output


def test_demo_studies_verb_writes_studies(tmp_path: Path) -> None:
    pytest.importorskip("nilearn")
    done = CliRunner().invoke(app, ["demo-studies", str(tmp_path / "d"), "--subjects", "1"])
    assert done.exit_code == 0, done.output
    assert len(list((tmp_path / "d").rglob("*.dcm"))) == 9 * 2 + 3 * 2
