"""``--to safetensors``: encoder, decoder and card, as situs itself loads them."""

from __future__ import annotations

from pathlib import Path

from situs.export.checks import insist_same, probe_image
from situs.export.export import Origin, Written
from situs.weights import load_encoder, save_weights


def write(origin: Origin, out: Path) -> Written:
    """Write ``encoder.safetensors``, ``decoder.safetensors`` and ``card.json``."""
    save_weights(out, origin.backbone, origin.card)
    again = load_encoder(out)
    image = probe_image(origin.backbone)
    insist_same(origin.backbone.encode, again.encode, image, "safetensors")
    return Written(
        "situs loaded it back and got the same features at every scale",
        "import situs\n"
        "encoder = situs.load_encoder('FOLDER')\n"
        "features = encoder.encode(image)  # (B, C, *spatial), prepared as card.json says\n"
        "# or without situs:\n"
        "from safetensors.torch import load_file\n"
        "state = load_file('FOLDER/encoder.safetensors')",
    )
