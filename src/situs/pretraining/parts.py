"""What a run is made of: its store, the items that samples are drawn from, its backbone."""

from __future__ import annotations

import os
import shutil

import pytorch_lightning as pl

from situs import backbones
from situs.backbones.base import Backbone
from situs.methods.composition import Composition
from situs.pretraining.config import PretrainConfig, check_data_there
from situs.pretraining.data import Item
from situs.store import Store, prepare
from situs.training.folder import Mode, check_same_paths, is_run
from situs.training.run import Run
from situs.views.source import Source


def open_store(config: PretrainConfig, mode: Mode, first: bool = True) -> Store:
    """The store asked for, or one of the run's own, prepared from scans.

    Raises:
        ConfigError: If a path is not there.
    """
    paths = config.paths
    own = config.out / "store"
    if not first and Store.is_store(own) and not Store.is_store(paths[0]):
        return Store.open(own)
    if mode == "resume" and Store.is_store(own) and not Store.is_store(paths[0]):
        check_same_paths(Run(config.out), paths)
        return Store.open(own)
    check_data_there(config, mode)
    if len(paths) == 1 and Store.is_store(paths[0]):
        return Store.open(paths[0])
    if mode == "overwrite" and is_run(config.out):
        shutil.rmtree(
            own, ignore_errors=True
        )  # its scans are there, and its preprocessing may differ
    return prepare(list(paths), own, config.preprocessing, workers=os.cpu_count())


def items_of(store: Store, composition: Composition) -> list[Item]:
    """What samples are drawn from: the studies of a store, or its scans one by one."""
    if composition.item == "study":
        return [list(study) for study in store.studies()]
    scans: list[Source] = [store[i] for i in range(len(store))]
    return [[scan] for scan in scans]


def backbone_config(
    config: PretrainConfig, composition: Composition, store: Store
) -> backbones.BackboneConfig:
    """The backbone asked for, with the method's dimension and the store's channels."""
    return config.backbone.model_copy(
        update={"spatial_dims": composition.spatial_dims, "in_channels": store[0].channels}
    )


def build_backbone(config: PretrainConfig, composition: Composition, store: Store) -> Backbone:
    """The backbone with the weights that the run's seed gives it; seeds all generators."""
    pl.seed_everything(config.seed, verbose=False)
    return backbones.build(backbone_config(config, composition, store))
