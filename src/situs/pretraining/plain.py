"""Methods without the trainer: a data set of views and a module with a loss, for any loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from situs.backbones import Backbone
from situs.errors import ConfigError
from situs.methods.base import Network
from situs.methods.composition import Composition, compose
from situs.pretraining.data import Item, ViewDataset
from situs.pretraining.teacher import TeacherConfig, make_teacher, momentum_at, update_teacher
from situs.store import Store
from situs.views.source import Source


class ViewsDataset(Dataset[dict[str, Any]]):
    """Views that a method looks at, map-style: item ``i`` is a pure function of ``i`` and the seed.

    It pickles, so that a loader may have workers, and collates with torch's default.

    Attributes:
        composition: The method, with what it left open settled for the data.
    """

    def __init__(
        self, items: Sequence[Item], composition: Composition, samples: int, seed: int
    ) -> None:
        self.composition = composition
        self._views = ViewDataset(items, composition, seed)
        self._samples = samples

    def __repr__(self) -> str:
        return f"ViewsDataset({self.composition.name}, {len(self)} samples)"

    def __len__(self) -> int:
        return self._samples

    def __getitem__(self, number: int) -> dict[str, Any]:
        """The views of sample ``number``, tensors by the name of each part of the method."""
        if not 0 <= number < self._samples:
            raise IndexError(number)
        views: dict[str, Any] = self._views[number]["views"]
        return views


def views_dataset(
    method: str,
    data: str | Path | Store | Sequence[Source],
    *,
    options: Mapping[str, Any] | None = None,
    backbone: Backbone | None = None,
    samples: int | None = None,
    seed: int = 0,
) -> ViewsDataset:
    """The views of a method as a map-style data set for a loop of one's own.

    Args:
        method: A name or a sum, ``"spatial"`` or ``"spatial+s2dc"``.
        data: A store, its path or URL, or scans (:class:`situs.views.ArraySource` for arrays).
        options: The method's own options; under the methods' names for a sum.
        backbone: What will be trained, where the views depend on it (``mae``'s blocks).
        samples: Length of the data set, 100 a scan by default; every scan is seen equally often.
        seed: Of everything drawn.

    Raises:
        ConfigError: For an unknown method or options, or without scans.
        StoreError: If the path is no store.

    Examples:
        >>> views = situs.views_dataset("spatial", "STORE")  # doctest: +SKIP
        >>> loader = DataLoader(views, batch_size=4, workers=2)  # doctest: +SKIP
    """
    composition = compose(method, options)
    store = Store.open(data) if isinstance(data, str | Path) else data
    items: list[Item]
    if composition.item == "study" and isinstance(store, Store):
        items = [list(study) for study in store.studies()]
    elif composition.item == "study":
        items = [list(store)]
    else:
        items = [[scan] for scan in store]
    if not items:
        raise ConfigError(f"there is nothing to draw views of '{method}' from: no scans")
    composition = composition.resolve_for_data([source for item in items for source in item])
    if backbone is not None:
        composition = composition.resolve_for_backbone(backbone)
    return ViewsDataset(items, composition, samples or 100 * len(items), seed)


class Objective(nn.Module):
    """A method as a module: backbone, heads and, where the method has one, a teacher.

    Train :meth:`trained_parameters`, and call :meth:`update_teacher` after each optimiser step.

    Args:
        method: The data set whose views will be given, or its composition.
        backbone: Trained in place.
        momentum: Of the teacher's moving average.
    """

    def __init__(
        self, method: ViewsDataset | Composition, backbone: Backbone, momentum: float = 0.99
    ) -> None:
        super().__init__()
        composition = method.composition if isinstance(method, ViewsDataset) else method
        self.composition = composition.resolve_for_backbone(backbone)
        self.student = Network(backbone, self.composition.build_heads(backbone))
        self.teacher = make_teacher(self.student) if composition.uses_teacher else None
        self.momentum = TeacherConfig(momentum=momentum)
        self._updates = 0

    def trained_parameters(self) -> list[nn.Parameter]:
        """What an optimiser is given."""
        return [p for p in self.student.parameters() if p.requires_grad]

    def loss(
        self, batch: dict[str, Any], generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Named terms of a collated batch, and their weighted ``total``.

        Args:
            batch: Of :class:`ViewsDataset`, on the module's device.
            generator: For what the loss itself draws; torch's own seed by default.
        """
        if generator is None:
            generator = torch.Generator().manual_seed(int(torch.randint(2**31, ())))
        result = self.composition.step(batch, self.student, self.teacher, generator)
        return dict(result.losses)

    def forward(self, batch: dict[str, Any]) -> Tensor:
        """The total of :meth:`loss`."""
        return self.loss(batch)["total"]

    @torch.no_grad()
    def update_teacher(self) -> None:
        """Average the student into the teacher; does nothing for a method without one."""
        self._updates += 1
        if self.teacher is not None:
            momentum = momentum_at(self.momentum, self._updates, self._updates)
            update_teacher(self.teacher, self.student, momentum)
