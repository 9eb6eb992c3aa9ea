"""``dino``: self-distillation between global and local views (arXiv 2104.14294)."""

from situs.methods.dino.config import DinoConfig
from situs.methods.dino.losses import distillation, koleo
from situs.methods.dino.method import Dino

__all__ = ["Dino", "DinoConfig", "distillation", "koleo"]
