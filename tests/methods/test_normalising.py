"""Normalisation with few passes, against torch's own and against visible places taken out."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from situs.methods.normalising import GroupNorm, group_norm


def drawn(groups: int, each: int, dtype: torch.dtype = torch.double) -> tuple[Tensor, ...]:
    torch.manual_seed(groups * 10 + each)
    channels = groups * each
    x = 3 + 2 * torch.randn(2, channels, 4, 3, 5, dtype=dtype)
    weight, bias = torch.randn(2, channels, dtype=dtype)
    return tuple(t.requires_grad_() for t in (x, weight, bias))


@pytest.mark.parametrize(("groups", "each"), [(1, 6), (3, 2), (4, 1)])
@pytest.mark.parametrize("affine", [True, False])
def test_values_and_gradients_are_torchs(groups: int, each: int, affine: bool) -> None:
    x, weight, bias = drawn(groups, each)
    given = (weight, bias) if affine else (None, None)
    found = group_norm(x, groups, *given)
    wanted = nn.functional.group_norm(x, groups, *given)
    torch.testing.assert_close(found, wanted)
    to = [t for t in (x, *given) if t is not None]
    seed = torch.randn_like(found)
    for got, want in zip(
        torch.autograd.grad(found, to, seed), torch.autograd.grad(wanted, to, seed), strict=True
    ):
        torch.testing.assert_close(got, want)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 3), st.integers(1, 3), st.floats(0.1, 0.9))
def test_hidden_places_count_for_nothing(groups: int, each: int, share: float) -> None:
    x, weight, bias = drawn(groups, each)
    mask = (torch.rand(2, 1, 4, 3, 5) < share).double()
    mask[:, :, 0, 0] = 1
    found = group_norm(x * mask, groups, weight, bias, mask=mask)
    wanted = torch.zeros_like(x)
    for sample in range(2):
        seen = mask[sample, 0] > 0
        rows = x[sample][:, seen].unflatten(0, (groups, each))
        rows = rows - rows.mean((1, 2), keepdim=True)
        rows = rows / (rows.square().mean((1, 2), keepdim=True) + 1e-5).sqrt()
        filled = rows.flatten(0, 1) * weight[:, None] + bias[:, None]
        wanted[sample][:, seen] = filled
    torch.testing.assert_close(found, wanted)
    seed = torch.randn_like(found)
    to = (x, weight, bias)
    for got, want in zip(
        torch.autograd.grad(found, to, seed), torch.autograd.grad(wanted, to, seed), strict=True
    ):
        torch.testing.assert_close(got, want)


def test_half_precision_is_kept_and_summed_in_single() -> None:
    x, weight, bias = drawn(1, 6, torch.float)
    low = x.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = group_norm(low, 1, weight, bias)
    wanted = nn.functional.group_norm(low.float(), 1, weight, bias)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), wanted, atol=2e-2, rtol=1e-2)
    seed = torch.randn_like(wanted)
    got = torch.autograd.grad(found, (low, weight), seed.bfloat16())
    want = torch.autograd.grad(wanted, (low, weight), seed.bfloat16().float())
    torch.testing.assert_close(got[0].float(), want[0].float(), atol=1e-2, rtol=2e-2)
    torch.testing.assert_close(got[1], want[1], atol=0.2, rtol=2e-2)


def test_the_module_takes_torchs_state() -> None:
    torchs = nn.GroupNorm(2, 4)
    nn.init.normal_(torchs.weight)
    own = GroupNorm(2, 4)
    own.load_state_dict(torchs.state_dict())
    x = torch.randn(2, 4, 3, 3, 3)
    torch.testing.assert_close(own(x), torchs(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_follows_may_work_in_place(dtype: torch.dtype) -> None:
    x, weight, bias = drawn(3, 2)
    given = (x.to(dtype), 3, weight.float(), bias.float())
    mask = torch.ones(2, 1, 4, 3, 5, dtype=dtype)
    found = nn.functional.leaky_relu(group_norm(*given, mask=mask), inplace=True)
    wanted = nn.functional.leaky_relu(group_norm(*given))
    torch.testing.assert_close(found, wanted)
    (got,), (want,) = (torch.autograd.grad(y.float().square().sum(), x) for y in (found, wanted))
    torch.testing.assert_close(got, want)
