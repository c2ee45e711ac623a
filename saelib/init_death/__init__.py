"""Measure how many latents of a TopK SAE are dead before it is trained, for every preprocessing in one pass."""

from saelib.init_death.encoder import random_encoder
from saelib.init_death.measure import measure
from saelib.init_death.result import Death, InitDeath, Rate, load_result, save_result

__all__ = ["Death", "InitDeath", "Rate", "load_result", "measure", "random_encoder", "save_result"]
