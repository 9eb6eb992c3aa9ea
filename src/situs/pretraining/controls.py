"""What a trained network is held against: the same samples without anatomy, and fresh weights."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from situs import backbones
from situs.backbones.base import Backbone
from situs.methods.base import Nets, Network
from situs.methods.composition import Composition, CompositionControls
from situs.pretraining.config import PretrainConfig
from situs.pretraining.data import Item, observed_batch
from situs.pretraining.teacher import make_teacher
from situs.views.controls import CONTROLS
from situs.views.source import Source

_SEED = 0  # of untrained weights


def controls_of(
    config: PretrainConfig,
    composition: Composition,
    backbone: Backbone,
    held_out: Sequence[Item],
    gone: Collection[int] = (),
) -> CompositionControls:
    """The controls of a run's observations, on the CPU.

    Args:
        config: Of the run.
        composition: Draws the samples.
        backbone: The trained one, for its dimensions and channels.
        held_out: What observed samples are drawn from.
        gone: Numbers of those that cannot be read.
    """
    count, seed = config.observe_samples, config.seed
    without = {control: without_anatomy(held_out, control) for control in CONTROLS}
    batches = {
        control: observed_batch(items, composition, count, seed, gone)[0]
        for control, items in without.items()
    }
    return CompositionControls(batches, untrained(config, composition, backbone))


def without_anatomy(items: Sequence[Item], control: str) -> list[Item]:
    """The same items with every scan's content replaced; see :mod:`situs.views.controls`."""
    made: dict[int, Source] = {}
    replaced = CONTROLS[control]
    for item in items:
        for scan in item:
            if id(scan) not in made:
                made[id(scan)] = replaced(scan)
    return [[made[id(scan)] for scan in item] for item in items]


def untrained(config: PretrainConfig, composition: Composition, backbone: Backbone) -> Nets:
    """Networks of the run's architecture with fresh weights, the same ones each time."""
    same = {"spatial_dims": backbone.spatial_dims, "in_channels": backbone.in_channels}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        fresh = backbones.build(config.backbone.model_copy(update=same))
        student = Network(fresh, composition.build_heads(fresh)).eval()
    return Nets(student, make_teacher(student) if composition.uses_teacher else None)
