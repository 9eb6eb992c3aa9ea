"""Volume contrast (VoCo): overlap of random crops with base crops."""

from situs.methods.voco.config import VocoConfig
from situs.methods.voco.losses import prediction, regularization
from situs.methods.voco.method import Voco

__all__ = ["Voco", "VocoConfig", "prediction", "regularization"]
