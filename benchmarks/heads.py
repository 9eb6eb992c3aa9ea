"""Classes that a segmentation network never finds, by the weights that its head begins with.

``python -m benchmarks.heads`` (ten minutes of a core). Four bodies in noise: a large dark one,
and three bright ones that nothing but their place tells apart, as kidneys and spleen in a scan. Two
scans to learn from and two others to test on; ten networks a head.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from situs.backbones.cnn import Cnn, CnnOptions
from situs.training.engine import quick_layout
from situs.training.schedule import warmup_cosine
from situs.transfer.losses import segmentation_loss
from situs.transfer.networks import Segmenter

SIZE = 24
PLACES = {1: (7, 14, 14), 2: (7, 6, 7), 3: (17, 6, 7), 4: (18, 16, 16)}
RADIUS = {1: 5.0, 2: 2.3, 3: 2.3, 4: 2.6}
CHANNELS = [8, 16, 32, 64]
STEPS, RATE, FOUND = 200, 3e-3, 0.05
SEEDS = range(10, 20)  # the length was chosen with the ten before


def scan(seed: int) -> tuple[Tensor, Tensor]:
    """One scan ``(1, 1, 24, 24, 24)`` and its classes ``(1, 24, 24, 24)``."""
    rng = np.random.default_rng(seed)
    grid = np.indices((SIZE,) * 3).astype(np.float32)
    image = rng.normal(0, 0.5, (SIZE,) * 3)
    label = np.zeros((SIZE,) * 3, int)
    moved = rng.uniform(-1.5, 1.5, 3)
    for name, place in PLACES.items():
        centre = np.array(place) + moved + rng.uniform(-1, 1, 3)
        inside = np.linalg.norm(grid - centre[:, None, None, None], axis=0) < RADIUS[name]
        label[inside] = name
        image[inside] += -1.0 if name == 1 else 2.0
    image = (image - image.mean()) / image.std()
    return torch.from_numpy(image).float()[None, None], torch.from_numpy(label)[None]


def default_head(model: Segmenter) -> None:
    """What torch gives a convolution."""
    model.head.reset_parameters()


def orthogonal_head(gain: float) -> Callable[[Segmenter], None]:
    """Rows of the head at right angles, each ``gain`` long."""

    def begin(model: Segmenter) -> None:
        nn.init.orthogonal_(model.head.weight, gain)
        nn.init.zeros_(model.head.bias)

    return begin


def dices(begin: Callable[[Segmenter], None], seed: int) -> list[float]:
    """Dice of the four bodies in scans that were not learned from."""
    torch.manual_seed(seed)
    model = Segmenter(Cnn(3, 1, CnnOptions(channels=CHANNELS)), 1 + len(PLACES))
    begin(model)
    quick_layout(model)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, warmup_cosine(20, STEPS))
    loss = segmentation_loss("dice_ce")
    scans = [scan(2 * seed), scan(2 * seed + 1)]
    image, label = (torch.cat(parts) for parts in zip(*scans, strict=True))
    for _ in range(STEPS):
        optimiser.zero_grad()
        loss(model(image), label)["total"].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    shares = torch.zeros(2, len(PLACES))
    with torch.no_grad():
        for other in (10_000, 10_001):
            image, label = scan(other)
            found = model(image).argmax(1)
            for row, name in enumerate(PLACES):
                mine, true = found == name, label == name
                shares[0, row] += 2 * (mine & true).sum()
                shares[1, row] += mine.sum() + true.sum()
    return (shares[0] / shares[1]).tolist()


def main() -> None:
    """Print for each head how many bright bodies were never found, and the mean Dice of all."""
    torch.set_num_threads(1)
    heads = {"torch's default": default_head}
    heads |= {f"at right angles, {gain} long": orthogonal_head(gain) for gain in (1, 2, 3)}
    for name, begin in heads.items():
        scores = np.array([dices(begin, seed) for seed in SEEDS])
        lost = scores[:, 1:] < FOUND
        print(
            f"{name:24s} {lost.sum():3d} of {lost.size} never found, mean Dice {scores.mean():.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
