"""The SAEs of one layer while the tokens of the held-out examples pass."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from saelib.config import Config
from saelib.config.sites import Layer
from saelib.evaluation.core import MASSIVE
from saelib.evaluation.judged import SAEPass, baseline_saes, trained_saes
from saelib.evaluation.sums import squared_lengths
from saelib.stats import load_arrays, load_stats


class LayerPass:
    """All SAEs of a layer, trained ones and baselines, and what is added up of them."""

    def __init__(self, config: Config, model: str, layer: Layer, folder: Path, device: str) -> None:
        """Loads the SAEs and the statistics of the layer; codes are collected in `folder`.

        Raises:
            UserError: If a result of an earlier stage is missing.
        """
        path = config.stats_path(model, layer)
        self.model, self.layer, self.folder = model, layer, folder
        self.stats, arrays = load_stats(path), load_arrays(path)
        self.center = arrays["center_median"]
        self.eigenvectors = arrays.get("eigenvectors")
        self.massive_norm = MASSIVE * self.stats.norm_quantiles["p50"]
        saes = [*trained_saes(config, model, layer, device), *baseline_saes(config, self.center, self.eigenvectors)]
        self.passes = [SAEPass(sae, folder, self.massive_norm) for sae in saes]
        self._massive: list[NDArray[np.bool_]] = []
        self._distances: list[NDArray[np.float32]] = []

    def add(self, acts: NDArray[np.float32]) -> None:
        """Gives tokens [tokens, d_in] to every SAE."""
        self._massive.append(squared_lengths(acts) > self.massive_norm**2)
        self._distances.append(squared_lengths(acts - self.center).astype(np.float32))
        for one in self.passes:
            one.add(acts)

    @property
    def massive(self) -> NDArray[np.bool_]:
        """[tokens]: whether a token is massive."""
        return np.concatenate(self._massive)

    @property
    def distances(self) -> NDArray[np.float32]:
        """[tokens]: squared distance from the geometric median of the training rows."""
        return np.concatenate(self._distances)
