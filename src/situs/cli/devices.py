"""Options that say where and how precisely a training computes; shared by two verbs."""

from __future__ import annotations

from typing import Annotated

import typer

Devices = Annotated[int | None, typer.Option(help="Devices of each machine; on a CPU, processes.")]
NumNodes = Annotated[int | None, typer.Option(help="Machines, started by srun or torchrun.")]
StrategyOption = Annotated[
    str | None, typer.Option("--strategy", help="auto or ddp: a copy of the network on each.")
]
AcceleratorOption = Annotated[str | None, typer.Option("--accelerator", help="auto, cpu or gpu.")]
Compile = Annotated[
    bool | None,
    typer.Option("--compile/--no-compile", help="Compile the encoder with torch.compile."),
]
PrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="auto, 32, bf16-mixed or 16-mixed.")
]
