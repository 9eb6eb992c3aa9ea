"""Every command and snippet of README and docs is run, as it stands in the text, on small data.

Only sizes are cut: steps, rounds, batches, channels, subjects. README is walked first; the other
pages go on in the folder where it ends, each in a copy of its own. ``~`` is a folder of the test.
What cannot be run has a marker in the text, ``<!-- not run: REASON -->`` above its block, and is
looked at by ``test_blocks_not_run.py``.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from inspect import signature
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from click import Command
from pages import PAGES, ROOT, Block, blocks, inline_commands, shortened, unfenced
from scipy import ndimage
from small_runs import forked_workers
from typer.main import get_command
from typer.testing import CliRunner

from situs.cli import app

README = ROOT / "README.md"
# What a command that trains takes in addition.
_SMALL = {
    "pretrain": [
        *("--steps", "2", "--batch-size", "2", "--set", "workers=0", "--set", "observe_samples=4"),
        *("--set", "backbone.options.channels=[4,4,8,8]"),
    ],
    "finetune": ["--steps", "2"],
}


def _write_scans(home: Path) -> None:
    """Eight patients with a bright and a dark body; two more that nobody has labelled."""
    rng = np.random.default_rng(0)
    shape, affine = (40, 36, 30), np.diag([1.5, 1.5, 2.0, 1.0])
    grid = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    for folder in ("scans", "new-scans", "labelled/images", "labelled/labels"):
        (home / folder).mkdir(parents=True)
    for number in range(10):
        label = np.zeros(shape, np.uint8)
        for value, centre in ((1, (12, 14, 12)), (2, (26, 20, 18))):
            label[((grid - centre - rng.uniform(-2, 2, 3)) ** 2).sum(-1) < 36] = value
        texture = ndimage.gaussian_filter(rng.normal(0, 900, shape), 2)
        image = nib.Nifti1Image(
            (500 + texture + np.array([0, 300, -300])[label]).astype(np.float32), affine
        )
        name = f"p{number:02d}.nii.gz"
        if number >= 8:
            nib.save(image, home / "new-scans" / name)
            continue
        nib.save(image, home / "scans" / name)
        nib.save(image, home / "labelled" / "images" / name)
        nib.save(nib.Nifti1Image(label, affine), home / "labelled" / "labels" / name)


def _run_script(words: Sequence[str]) -> None:
    """``python examples/NAME.py …`` with two steps, or one round, instead of what it does alone."""
    main = runpy.run_path(str(ROOT / words[1]))["main"]
    few = {"steps": 2, "epochs": 1}
    taken = {name: few[name] for name in few.keys() & signature(main).parameters.keys()}
    main(*map(os.path.expanduser, words[2:]), **taken)


def _run(block: Block) -> None:
    """Every command of a block, in order; a shell's redirections and pipes are not for pages."""
    commands = block.commands()
    assert commands, f"{block.place}: nothing in it is a command"
    for words in commands:
        typed = shlex.join(words)
        if words[0] == "python":
            _run_script(words)
            continue
        if words[0] == "cp":
            shutil.copy(ROOT / words[1], words[2])
            continue
        assert words[0] == "situs", f"{block.place}: not run and without a marker: {typed}"
        began = time.perf_counter()
        small = _SMALL.get(words[1], []) if "--resume" not in words else []
        if {"--backbone", "--like-plan"} & {*words}:  # whose options are its own
            small = small[:-2]
        if words[1] == "pretrain" and block.page != README:
            small = [*small, "--no-report"]  # README's is drawn, and those that are observed
        args = [os.path.expanduser(word) for word in shlex.split(shortened(typed))[1:]]
        result = CliRunner().invoke(app, [*args, *small])
        ended = f"{block.place}: {typed}\n{result.output}\n{result.exception!r}"
        # Two steps teach no plane: what could not be planned is named, with exit code 1.
        assert result.exit_code in ((0, 1) if words[1] == "plan" else (0,)), ended
        print(f"{time.perf_counter() - began:6.1f} s  {typed}", file=sys.stderr)  # noqa: T201


def _walk(page: Path) -> list[str]:
    """Run what a page tells, in the working folder; returns what was run."""
    names: dict[str, Any] = {}
    done = []
    for block in blocks(page):
        if block.reason or block.language == "toml":
            continue
        if block.file:  # as it is imported; what it does is done by the command below it
            runpy.run_path(str(block.file))
            done.append(block.place)
            continue
        if block.language == "sh":
            _run(block)
        elif block.language == "python":
            if found := re.match(r"# (\w+\.py)\n", block.text):
                Path(found[1]).write_text(block.text, encoding="utf-8")
            exec(compile(shortened(block.text), block.place, "exec"), names)
        elif block.language == "yaml" and block.text.startswith("# "):
            name = block.text.split()[1]
            assert "/" not in name
            assert name.endswith(".yaml")
            Path(name).write_text(shortened(block.text), encoding="utf-8")
        done.append(block.place)
    return done


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with scans, in whose folder ``work`` everything of README has been run."""
    home = tmp_path_factory.mktemp("home")
    _write_scans(home)
    (home / "work").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(home))
        patch.chdir(home / "work")
        assert len(_walk(README)) >= 2
    return home


@pytest.mark.slow
def test_readme_leads_from_scans_to_predictions(walked: Path) -> None:
    work = walked / "work"
    assert (work / "runs/first/report/index.html").is_file()
    predictions = sorted(file.name for file in (work / "predictions").glob("*.nii.gz"))
    assert predictions == ["p08.nii.gz", "p09.nii.gz"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [page for page in PAGES if page != README], ids=lambda page: page.stem
)
def test_a_page_can_be_followed(
    page: Path, walked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if all(block.reason for block in blocks(page)):
        pytest.skip("nothing on this page is to be run")
    shutil.copytree(walked, tmp_path / "home")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home" / "work")
    text = page.read_text(encoding="utf-8")
    if any(name in text for name in ("VoComni_B.pt", "nnUNetResEncUNetLPlans.json")):
        pytest.importorskip("nnunetv2")
        made = pytest.importorskip("page_files").MADE
        for name in made.keys() & {*re.findall(r"[\w.]+", text)}:
            made[name](Path(name))
    with ExitStack() as stack:
        stack.enter_context(forked_workers())
        stack.callback(torch.set_grad_enabled, True)  # MONAI's bundles switch gradients off
        if "s3://my-bucket" in text:
            storage = pytest.importorskip("object_storage", exc_type=ImportError)
            bucket = stack.enter_context(storage.s3_bucket("my-bucket"))
            storage.copy_to(Path("~/scans").expanduser(), f"{bucket}/scans")
        _walk(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_blocks_say_what_they_are_and_the_prose_names_what_there_is(page: Path) -> None:
    for block in blocks(page):
        # A console's prompts would be copied along with its commands.
        assert block.language in ("sh", "python", "yaml", "toml", "text"), block.place
        assert block.language != "yaml" or block.text.startswith("# "), (
            f"{block.place}: its first line names the file, '# NAME.yaml'"
        )
    text = re.sub(r"(?s)\A---\n.*?\n---\n+", "", page.read_text(encoding="utf-8"))
    assert re.match(r"# [^\n]+\n\n[\w*`]", text), f"{page.name}: begins without a sentence"
    assert not unfenced(page), f"{page.name}: put them between fences, so that they are looked at"
    verbs: dict[str, Command] = get_command(app).commands  # type: ignore[attr-defined]
    for command in inline_commands(page):
        _, verb, *words = command.replace("…", "").split()
        assert verb in verbs, f"{page.name}: `{command}` names no verb"
        known = {name for parameter in verbs[verb].params for name in parameter.opts}
        options = {word.split("=")[0] for word in words if word.startswith("--")}
        assert options <= {*known, "--help"}, f"{page.name}: `{command}`"
