"""Axes along R, A, S, as nibabel orders them."""

from __future__ import annotations

from itertools import permutations, product

import nibabel as nib
import numpy as np
import pytest

from situs.geometry.axes import from_ras, ras_axes, to_ras


@pytest.mark.parametrize(
    "codes", ["".join(c) for p in permutations(("RL", "AP", "SI")) for c in product(*p)]
)
def test_arrays_are_turned_as_nibabel_turns_them(codes: str) -> None:
    array = np.random.default_rng(0).normal(size=(4, 5, 6))
    ras = nib.Nifti1Image(array, np.diag([2.0, 3, 4, 1]))
    image = ras.as_reoriented(nib.orientations.axcodes2ornt(codes).astype(int))
    own = nib.as_closest_canonical(image)
    axes, flips = ras_axes(image.affine)
    turned = to_ras(image.get_fdata()[None], axes, flips)
    assert np.array_equal(turned[0], own.get_fdata())
    assert np.array_equal(from_ras(turned, axes, flips)[0], image.get_fdata())
