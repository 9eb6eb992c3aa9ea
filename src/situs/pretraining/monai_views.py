"""Views of a method as a MONAI transform, for pipelines that load and prepare scans themselves."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

from situs.backbones import Backbone
from situs.errors import ConfigError
from situs.methods.composition import Composition, compose
from situs.views.source import ArraySource, Source


class Viewsd(RandomizableTransform, MapTransform):
    """Draws what a method looks at from each prepared image, a MONAI dictionary transform.

    It stands last in a pipeline, after ``Orientationd(axcodes="RAS")``; the views are what
    :meth:`situs.Objective.loss` takes once a loader has collated them. Randomness is MONAI's:
    ``set_random_state``, and a seed of its own in each worker of MONAI's loader.

    Args:
        keys: Images ``(C, X, Y, Z)``, MONAI's ``MetaTensor`` with an affine in RAS mm.
        method: A name, a sum, or a composition with nothing left open, such as that of
            :func:`situs.views_dataset`.
        options: The method's own options, where it is given by name.
        scans: Prepared images from which what a method leaves open is settled (lengths of
            ``spatial``, sizes of ``sal``), where it is given by name.
        backbone: What will be trained, where the views depend on it (``mae``'s blocks).
        views: Key under which the views of each image go; ``"{key}"`` stands for the image's.
        allow_missing_keys: As in MONAI.

    Raises:
        ConfigError: For an unknown method or options, and for methods that look at studies.

    Examples:
        >>> views = Viewsd("image", "mae", backbone=backbone)  # doctest: +SKIP
        >>> Compose([*prepare, views, SelectItemsd("views")])  # doctest: +SKIP
    """

    def __init__(
        self,
        keys: KeysCollection,
        method: str | Composition,
        *,
        options: Mapping[str, Any] | None = None,
        scans: Sequence[Tensor] = (),
        backbone: Backbone | None = None,
        views: str = "views",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self)
        if isinstance(method, str):
            method = compose(method, options)
            if scans:
                method = method.resolve_for_data([as_source(scan) for scan in scans])
        if method.item == "study":
            raise ConfigError("methods that look at studies take several scans, not one image")
        self.composition = method if backbone is None else method.resolve_for_backbone(backbone)
        self.views = views

    def __repr__(self) -> str:
        return f"Viewsd({', '.join(map(repr, self.keys))}, {self.composition.name})"

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """The same entries and the views.

        Raises:
            ConfigError: If an image is not oriented towards R, A, S.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            rng = np.random.default_rng(int(self.R.randint(2**31)))
            views = self.composition.sample([as_source(result[key])], rng)
            result[self.views.format(key=key)] = views
        return result


def as_source(image: Tensor) -> Source:
    """A prepared image as a scan that methods can sample.

    Args:
        image: ``(C, X, Y, Z)``, with ``.affine`` where it is a ``MetaTensor``; 1 mm otherwise.

    Raises:
        ConfigError: If its axes do not run closest to R, A, S.
    """
    affine = np.asarray(getattr(image, "affine", np.eye(4)), dtype=np.float64)
    directions = "".join(nib.aff2axcodes(affine))
    if directions != "RAS":
        raise ConfigError(
            f"an image lies towards {', '.join(directions)}; put "
            "Orientationd(keys, axcodes='RAS') before, as all of situs's weights expect"
        )
    array = torch.as_tensor(image).detach().cpu().numpy().astype(np.float32, copy=False)
    return ArraySource(np.asarray(array), affine)
