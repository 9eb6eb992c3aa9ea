"""A training step of every method against its network alone: time, memory, launches, host waits.

``python -m benchmarks.gpu [--minutes M] [--out FOLDER] [--page PAGE] [--only WORD …]``, on the
first GPU, or in small on a CPU; ``--made gpu.json --page PAGE`` takes a run of another machine.
Views are drawn from noise, so no scans are needed. For each row of the table:

network   the calls of the backbone and the heads that one step makes, forward and backward
loss      the step without its optimiser: the method's forward pass, losses and backward
step      with clipping, optimiser and teacher
trainer   the same through the trainer, batches at hand
ratio     loss / network: what the method costs around its network
compiled  loss with the encoder compiled, where asked for by ``--compile``
launches  kernels that a step starts, and its network calls alone; on a CPU operations
waits     times a step of the trainer waits for the device, outside logging

A step's share of the matrix rate is its multiplications, as torch counts them, against a bf16
matrix product (of 8192², on a CPU of float32 and 1024²) timed in the same run. The rows stand in
the order of their weight; what was measured is written after each, also to the page,
and after the first none is begun when the minutes are over. Compiling, which may take minutes or
fail, comes last.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from benchmarks._page import machine, put, said
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.data import default_collate
from torch.utils.flop_counter import FlopCounterMode

from situs.backbones import build
from situs.files import write_file
from situs.methods.base import Network
from situs.methods.composition import Composition, compose
from situs.methods.s2dc.presets import PRESETS
from situs.pretraining.callbacks import MetricsLogger
from situs.pretraining.config import PretrainConfig
from situs.pretraining.finite import FiniteSteps
from situs.pretraining.module import Pretraining
from situs.pretraining.teacher import update_teacher
from situs.training.engine import quick_layout, quiet_engine
from situs.training.run import Run
from situs.training.steps import StepRollback
from situs.views import ArraySource

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
# Without a GPU the processor's time: others on the machine do not count.
clock = time.perf_counter if CUDA else time.process_time
CNN_2D = {"channels": [16, 32, 64, 128, 256]}
SMALL = {"name": "cnn", "options": {"channels": [4, 8]}}


@dataclass(frozen=True)
class Row:
    """One line of the table, and the same in small for a CPU."""

    name: str
    method: str
    batch: int
    backbone: Mapping[str, Any]
    options: Mapping[str, Any]
    small: Mapping[str, Any] = field(default_factory=dict)

    def title(self, small: bool) -> str:
        """What the table calls it."""
        return f"{self.name}, in small" if small else self.name

    def size(self, small: bool) -> int:
        """Samples of a batch."""
        return 2 if small else self.batch

    def config(self, small: bool) -> PretrainConfig:
        """As of a run with these settings; nothing is read or written by it."""
        return PretrainConfig.model_validate(
            {
                "data": "none",
                "out": "none",
                "method": self.method,
                "backbone": SMALL if small else self.backbone,
                "options": {**self.options, **(self.small if small else {})},
                "batch_size": self.size(small),
                "log_every": 10**6,
                "workers": 0,
            }
        )


def cube(size: int) -> list[int]:
    return [size] * 3


NNUNET = {"name": "nnunet"}
SPATIAL = {"view_size": cube(96), "chunk_size": cube(32)}
SMALL_SPATIAL = {"view_size": cube(8), "chunk_size": cube(4)}
REFERENCE = PRESETS["reference"].options
SMALL_REFERENCE = {"grid": [2, 2, 1], "crop_size": cube(8), "hidden": 16, "features": 8}
SLICES = {"name": "cnn", "options": CNN_2D}


def flat(size: int) -> dict[str, Any]:
    return {"size": [size, size], "spacing_mm": 1.26}


ROWS = [
    Row("spatial 3 × 96³", "spatial", 2, NNUNET, SPATIAL, SMALL_SPATIAL),
    Row("mae 128³", "mae", 2, NNUNET, {"view_size": cube(128)}, {"view_size": cube(16)}),
    Row(
        "s2dc reference 16 × 96³",
        "s2dc",
        1,
        {"name": "swin_unetr", "options": {"feature_size": 48}},
        REFERENCE,
        SMALL_REFERENCE,
    ),
    Row(
        "s2dc reference, activations recomputed",
        "s2dc",
        1,
        {"name": "swin_unetr", "options": {"feature_size": 48, "use_checkpoint": True}},
        REFERENCE,
        SMALL_REFERENCE,
    ),
    Row("sal 224²", "sal", 8, SLICES, {**flat(224), "window": 14}, {**flat(16), "window": None}),
    Row("planes 224²", "planes", 4, SLICES, flat(224), flat(16)),
    Row(
        "spatial 3 × 96³ coarse",
        "spatial",
        4,
        NNUNET,
        {**SPATIAL, "vector_from": "coarse"},
        SMALL_SPATIAL,
    ),
    Row("sal 128²", "sal", 16, SLICES, flat(128), flat(16)),
    Row("planes 128²", "planes", 16, SLICES, flat(128), flat(16)),
    Row(
        "simclr 64³", "simclr", 16, {"name": "cnn"}, {"view_size": cube(64)}, {"view_size": cube(8)}
    ),
    Row(
        "voco 8 × 48³", "voco", 4, {"name": "cnn"}, {"crop_size": cube(48)}, {"crop_size": cube(8)}
    ),
    Row(
        "dino 64³",
        "dino",
        8,
        {"name": "cnn"},
        {"global_size": cube(64), "local_size": cube(32)},
        {"global_size": cube(8), "local_size": cube(4), "prototypes": 16},
    ),
]


def noise(small: bool) -> ArraySource:
    """The scan that views are drawn from."""
    shape = (40, 40, 24) if small else (400, 400, 128)
    array = np.random.default_rng(0).standard_normal((1, *shape), dtype=np.float32)
    return ArraySource(array, air=(-4.0,))


def sync() -> None:
    if CUDA:
        torch.cuda.synchronize()


def autocast() -> torch.autocast:
    return torch.autocast(DEVICE.type, torch.bfloat16, enabled=CUDA)


def seconds_each(runs: Mapping[str, Callable[[], object]], least: float) -> dict[str, float]:
    """Median seconds of one call of each, taking turns so that a drift meets all alike."""
    calls = {}
    for name, run in runs.items():
        run()
        sync()
        begin = clock()
        run()
        sync()
        calls[name] = max(1, min(50, int(least / 3 / (clock() - begin))))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(3):
        for name, run in runs.items():
            begin = clock()
            for _ in range(calls[name]):
                run()
            sync()
            times[name].append((clock() - begin) / calls[name])
    return {name: median(taken) for name, taken in times.items()}


def matrix_rate() -> float:
    """Operations a second of a plain matrix product."""
    n, dtype = (8192, torch.bfloat16) if CUDA else (1024, torch.float32)
    a, b = (torch.randn(n, n, device=DEVICE, dtype=dtype) for _ in range(2))
    return 2 * n**3 / seconds_each({"product": lambda: a @ b}, 0.3)["product"]


class Step:
    """One step of a row's method on views drawn from noise, in pieces that can be timed."""

    def __init__(self, row: Row, scan: ArraySource, small: bool) -> None:
        torch.manual_seed(0)
        config = row.config(small)
        composition = compose(config.method, config.options).resolve_for_data([scan])
        backbone = build(
            config.backbone.model_copy(update={"spatial_dims": composition.spatial_dims})
        )
        composition = composition.resolve_for_backbone(backbone)
        self.batch = drawn(composition, scan, config.batch_size)
        self.module = Pretraining(config, composition, backbone, [[scan]], [[scan]]).to(DEVICE)
        quick_layout(self.module)
        self.composition = composition
        self.optimiser = self.module.configure_optimizers()["optimizer"]

    def loss(self) -> None:
        """Forward, losses, backward."""
        module, generator = self.module, torch.Generator().manual_seed(0)
        with autocast():
            result = self.composition.step(self.batch, module.student, module.teacher, generator)
        self.optimiser.zero_grad(set_to_none=True)
        result.losses["total"].backward()

    def step(self) -> None:
        """With clipping, optimiser and teacher."""
        self.loss()
        nn.utils.clip_grad_norm_(self.module.student.parameters(), 1.0)
        self.optimiser.step()
        if self.module.teacher is not None:
            update_teacher(self.module.teacher, self.module.student, 0.99, self.module.spoiled)

    def network(self) -> Callable[[], None]:
        """The reference: the calls that one step makes of backbone and heads, and nothing else."""
        with recorded(self.module) as calls:
            self.loss()
        kept = [(call, [still(x) for x in inputs], gradient) for call, inputs, gradient in calls]

        def replay() -> None:
            outputs = []
            with autocast():
                for call, inputs, gradient in kept:
                    with torch.set_grad_enabled(gradient):
                        outputs += [t for t in tensors(call(*inputs)) if t.requires_grad]
            self.optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(outputs, [torch.ones_like(t) for t in outputs])

        return replay


def drawn(composition: Composition, scan: ArraySource, count: int) -> dict[str, dict[str, Tensor]]:
    """A batch of the method's views, on the device."""
    samples = [composition.sample([scan], np.random.default_rng(i)) for i in range(count)]
    batch: dict[str, dict[str, Tensor]] = default_collate(samples)
    return {part: {k: v.to(DEVICE) for k, v in views.items()} for part, views in batch.items()}


Call = tuple[Callable[..., Any], Sequence[Any], bool]


@contextmanager
def recorded(module: Pretraining) -> Iterator[list[Call]]:
    """The outermost calls of encoders, decoders and heads while active, with their inputs."""
    calls: list[Call] = []
    inside = [0]
    restore: list[tuple[Any, str]] = []

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def called(*inputs: Any) -> Any:
            if not inside[0]:
                calls.append((original, inputs, torch.is_grad_enabled()))
            inside[0] += 1
            try:
                return original(*inputs)
            finally:
                inside[0] -= 1

        # Hides the class's method until it is deleted again.
        object.__setattr__(owner, name, called)
        restore.append((owner, name))

    networks: list[Network] = [n for n in (module.student, module.teacher) if n is not None]
    for network in networks:
        watch(network.backbone, "encode")
        watch(network.backbone, "decode")
        for part in network.heads.children():
            watch(part, "forward")
            for head in part.children():
                watch(head, "forward")
    try:
        yield calls
    finally:
        for owner, name in restore:
            object.__delattr__(owner, name)


def still(value: Any) -> Any:
    """``value`` cut off from what it came from; what carried gradient is a leaf that takes it."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, list | tuple):
        return [still(entry) for entry in value]
    return value


def tensors(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [t for entry in value for t in tensors(entry)]


def launches(run: Callable[[], object]) -> tuple[int, list[tuple[str, float, int]]]:
    """Kernels that one call starts, and those that take longest: name, ms, times."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if CUDA else [])]
    with profile(activities=activities) as found:
        run()
        sync()
    events = found.key_averages()
    if not CUDA:
        own = [(e.key, e.self_cpu_time_total / 1e3, e.count) for e in events if "::" in e.key]
        return sum(count for *_, count in own), sorted(own, key=lambda e: -e[1])[:25]
    kernels = [
        (e.key[:90], e.self_device_time_total / 1e3, e.count)
        for e in events
        if e.self_device_time_total > 0 and e.device_type == torch.autograd.DeviceType.CUDA
    ]
    started = sum(e.count for e in events if "LaunchKernel" in e.key)
    return started, sorted(kernels, key=lambda e: -e[1])[:25]


class Watch(pl.Callback):
    """Times some steps of the trainer, then counts where others wait for the device."""

    def __init__(self, warm: int, timed: int, counted: int) -> None:
        self.begin, self.end, self.last = warm, warm + timed, warm + timed + counted
        self.seconds = 0.0
        self.waits: Counter[str] = Counter()
        self._start = 0.0
        self._caught: Any = None

    def on_train_batch_start(self, trainer: pl.Trainer, *_: Any) -> None:
        """Begin to time, or to count."""
        if trainer.global_step == self.begin:
            sync()
            self._start = clock()
        elif trainer.global_step == self.end:
            sync()
            self.seconds = (clock() - self._start) / (self.end - self.begin)
            self._caught = warnings.catch_warnings(record=True)
            self._log = self._caught.__enter__()
            warnings.simplefilter("always")
            if CUDA:
                torch.cuda.set_sync_debug_mode("warn")

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Stop counting after the last step."""
        if trainer.global_step == self.last:
            if CUDA:
                torch.cuda.set_sync_debug_mode("default")
            self._caught.__exit__(None, None, None)
            for told in self._log:
                if "synchroniz" in str(told.message):
                    where = "/".join(Path(told.filename).parts[-3:])
                    self.waits[f"{where}:{told.lineno}"] += 1


def through_trainer(step: Step, pace: float) -> dict[str, Any]:
    """Milliseconds of a step of the trainer, and its waits."""
    begin = clock()
    step.step()
    sync()
    watch = Watch(2, max(3, min(30, int(pace / (clock() - begin)))), 2)
    rollback = StepRollback()
    batch = {"item": torch.zeros(2, dtype=torch.long), "views": step.batch}
    with tempfile.TemporaryDirectory() as folder, quiet_engine():
        trainer = pl.Trainer(
            default_root_dir=folder,
            max_steps=watch.last,
            accelerator=DEVICE.type,
            devices=1,
            precision="bf16-mixed" if CUDA else "32-true",
            callbacks=[
                rollback,
                FiniteSteps(rollback, [10**6]),
                MetricsLogger(Run(Path(folder)), 10**6, rollback),
                watch,
            ],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = torch.utils.data.DataLoader([batch] * watch.last, batch_size=None)
        trainer.fit(step.module, loader)
    counted = watch.last - watch.end
    return {
        "trainer_ms": 1e3 * watch.seconds,
        "waits": sum(watch.waits.values()) / counted if CUDA else None,
        "waits_at": dict(watch.waits.most_common(12)),
    }


def times(step: Step, rate: float, pace: float) -> dict[str, Any]:
    """Network, loss and step in turns; memory and multiplications of a step."""
    found: dict[str, Any] = {}
    step.step()  # the optimiser's state and the libraries' workspaces are made
    if CUDA:
        torch.cuda.reset_peak_memory_stats()
    step.step()
    if CUDA:
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    taken = seconds_each({"network": step.network(), "loss": step.loss, "step": step.step}, pace)
    found |= {f"{name}_ms": 1e3 * seconds for name, seconds in taken.items()}
    found["ratio"] = taken["loss"] / taken["network"]
    with FlopCounterMode(display=False) as counter:
        step.loss()
    found["tflop"] = counter.get_total_flops() / 1e12
    return found | {"rate_share": counter.get_total_flops() / taken["step"] / rate}


def starts(step: Step) -> dict[str, Any]:
    """Kernels of a step, and of the network calls in it."""
    found = dict(zip(("launches", "kernels"), launches(step.step), strict=True))
    network = launches(step.network())
    return found | {"network_launches": network[0], "network_kernels": network[1]}


def compiled(step: Step, pace: float) -> dict[str, Any]:
    """The loss again with a compiled encoder, and how long compiling took."""
    encoder = step.module.student.backbone.encoder
    encoder.compile()
    begin = time.perf_counter()
    try:
        step.loss()
        sync()
        took = time.perf_counter() - begin
        loss = seconds_each({"loss": step.loss}, pace)["loss"]
    finally:
        encoder._compiled_call_impl = None  # as it was; torch has no name for it
    return {"compiled_ms": 1e3 * loss, "compile_seconds": took}


def measure(row: Row, scan: ArraySource, small: bool, rate: float, pace: float) -> dict[str, Any]:
    """All columns of one row; what cannot be measured costs its own columns."""
    found: dict[str, Any] = {"name": row.title(small), "batch": row.size(small), "errors": []}
    step = Step(row, scan, small)
    parts: list[Callable[[], dict[str, Any]]] = [
        lambda: times(step, rate, pace),
        lambda: starts(step),
        lambda: through_trainer(step, pace),  # last: the trainer leaves the network on the CPU
    ]
    for part in parts:
        try:
            found |= part()
        except Exception:  # the others count all the same
            found["errors"].append(traceback.format_exc()[-2000:])
            print(found["errors"][-1])
    return found


COLUMNS = {
    "network": ("network_ms", "{:.1f}"),
    "loss": ("loss_ms", "{:.1f}"),
    "compiled": ("compiled_ms", "{:.1f}"),
    "step": ("step_ms", "{:.1f}"),
    "trainer": ("trainer_ms", "{:.1f}"),
    "ratio": ("ratio", "{:.2f}"),
    "GiB": ("peak_gib", "{:.1f}"),
    "launches": ("launches", "{:.0f}"),
    "of network": ("network_launches", "{:.0f}"),
    "waits": ("waits", "{:.1f}"),
    "TFLOP": ("tflop", "{:.3g}"),
    "of the matrix rate": ("rate_share", "{:.1%}"),
}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Markdown; times in milliseconds."""
    lines = ["| work, batch | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for row in rows:
        cells = [
            form.format(row[key]) if row.get(key) is not None else "–"
            for key, form in COLUMNS.values()
        ]
        lines.append(f"| {row['name']}, {row['batch']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def limits(row: Mapping[str, Any]) -> str:
    """What takes a step's time: arithmetic, the longest kernels, what others wait for."""
    parts = []
    if kernels := row.get("kernels"):
        every = sum(ms for _, ms, _ in kernels)
        longest = [f"`{_short(name)}` {ms / every:.0%}" for name, ms, _ in kernels[:3]]
        parts.append(f"longest of the 25 longest kernels ({every:.0f} ms): {', '.join(longest)}")
    if row.get("launches") and row.get("step_ms"):
        each = 1e3 * row["step_ms"] / row["launches"]
        parts.append(f"{row['launches']} launches, one every {each:.0f} µs")
    if row.get("waits_at"):
        parts.append("waits at " + ", ".join(f"`{at}`" for at in list(row["waits_at"])[:3]))
    return f"- **{row['name']}**: " + "; ".join(parts or ["not measured"])


def _short(kernel: str) -> str:
    """A kernel's name without what it is a template of."""
    bare = kernel.removeprefix("void ").partition("<")[0].partition("(")[0]
    return bare.rpartition("::")[2] or kernel[:40]


def summary(found: Mapping[str, Any]) -> str:
    """The run as Markdown: machine, table, and what limits each row."""
    rate = found["matrix_tflops"]
    return "\n".join(
        [
            f"{said(found['machine'])}; matrix product {rate:.3g} TFLOP/s. Times in milliseconds.",
            "",
            table(found["rows"]),
            "",
            *(limits(row) for row in found["rows"]),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="when to stop")
    parser.add_argument("--out", type=Path, help="folder for gpu.json and gpu.md")
    parser.add_argument("--only", nargs="*", default=[], help="rows whose name has a word of these")
    parser.add_argument("--small", action="store_true", default=not CUDA, help="as without a GPU")
    parser.add_argument(
        "--compile", nargs="*", default=[], help="rows that are also measured with it compiled"
    )
    parser.add_argument("--page", type=Path, help="page that takes the table, between its marks")
    parser.add_argument("--made", type=Path, help="a gpu.json of another machine: no run, its page")
    arguments = parser.parse_args()
    if arguments.made:
        told = summary(json.loads(arguments.made.read_text(encoding="utf-8")))
        print(told)
        if arguments.page:
            put(arguments.page, "gpu", told)
        return
    chosen = [r for r in ROWS if not arguments.only or any(w in r.name for w in arguments.only)]
    late = [r for r in chosen if any(word in r.name for word in arguments.compile)]
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"\n{run(chosen, late, arguments)}")


def run(chosen: Sequence[Row], late: Sequence[Row], arguments: argparse.Namespace) -> str:
    """Measure rows, then ``late`` ones compiled; what there is is written after each."""
    begin, limit = time.perf_counter(), 60 * arguments.minutes
    warnings.simplefilter("ignore")
    scan = noise(arguments.small)
    rate = matrix_rate()
    pace = min(3.0, limit / 150)
    rows: list[dict[str, Any]] = []
    longest, told = 0.0, ""
    for row, with_compile in [*((r, False) for r in chosen), *((r, True) for r in late)]:
        started = time.perf_counter()
        if rows and started - begin + longest / 2 > limit:
            print(f"{row.name}: no time left")
            continue
        title, size = row.title(arguments.small), row.size(arguments.small)
        if not with_compile:
            rows.append({"name": title, "batch": size, "errors": []})
        line = next((line for line in rows if line["name"] == title), {"errors": []})
        try:
            if with_compile:
                line |= compiled(Step(row, scan, arguments.small), pace)
            else:
                line |= measure(row, scan, arguments.small, rate, pace)
        except Exception:  # one row must not cost the others
            line["errors"].append(traceback.format_exc()[-2000:])
            print(line["errors"][-1])
        if CUDA:
            torch.cuda.empty_cache()
        longest = max(longest, time.perf_counter() - started)
        print(f"[{started - begin:5.1f} s] {table([line]).splitlines()[-1]}", flush=True)
        told = keep({"machine": machine(), "matrix_tflops": rate / 1e12, "rows": rows}, arguments)
    return told


def keep(found: Mapping[str, Any], arguments: argparse.Namespace) -> str:
    """What there is so far, written where it was asked for: a process may end at any row."""
    told = summary(found)
    if arguments.out:
        write_file(arguments.out / "gpu.json", json.dumps(found, indent=1))
        write_file(arguments.out / "gpu.md", told + "\n")
    if arguments.page:
        put(arguments.page, "gpu", told)
    return told


if __name__ == "__main__":
    main()
