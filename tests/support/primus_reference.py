"""The package's own Primus, run in a process of its own: ``python primus_reference.py FILE``.

timm, which it is made of, imports torchvision for transforms that no network needs; where
torchvision is not installed, empty stand-ins take its place in this process alone.
"""

from __future__ import annotations

import sys
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from unittest.mock import MagicMock


class _Nothing(MetaPathFinder, Loader):
    """Any module below torchvision, with any name in it."""

    def find_spec(self, fullname, path=None, target=None):
        return ModuleSpec(fullname, self) if fullname.split(".")[0] == "torchvision" else None

    def create_module(self, spec):
        stand_in = MagicMock(name=spec.name)
        stand_in.__path__ = []
        return stand_in

    def exec_module(self, module):
        pass


def main(file: str) -> None:
    if find_spec("torchvision") is None:
        sys.meta_path.append(_Nothing())
    import torch  # noqa: PLC0415 - after the stand-ins
    from dynamic_network_architectures.architectures.primus import Primus  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    torch.manual_seed(0)
    network = Primus(
        1,
        396,
        (8, 8, 8),
        3,
        eva_depth=2,
        eva_numheads=6,
        input_shape=(16, 24, 32),
        init_values=0.1,
        scale_attn_inner=True,
    ).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        image = torch.randn(2, 1, 16, 24, 32)
        tokens, _ = network.eva(network.down_projection(image).flatten(2).transpose(1, 2))
        made = {"image": image, "tokens": tokens, "logits": network(image)}
    state = {f"state.{name}": tensor.clone() for name, tensor in network.state_dict().items()}
    save_file({**state, **{n: t.contiguous() for n, t in made.items()}}, file)


if __name__ == "__main__":
    main(sys.argv[1])
