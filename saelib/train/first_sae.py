"""The SAE that a sweep starts from, of a variant and a layer's rows and statistics."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.activations.rows import Rows, read_float32
from saelib.config import TrainConfig, VariantConfig
from saelib.evaluation.space import SCALE_ROWS, Space
from saelib.preprocessing.fit import whitening_directions
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.initial_weights import calibrate, initial_sae, set_firing_rate
from saelib.sae.model import SAE


def first_sae(
    train: Rows,
    space: Space,
    preprocess: Preprocessing,
    statistics: Mapping[str, NDArray[Any]],
    config: TrainConfig,
    variant: VariantConfig,
    seed: int,
) -> SAE:
    """Draws the weights of a sweep's SAE, and sets what `variant.init` measures on training rows.

    Args:
        train: Training rows as stored.
        space: Space that the SAE reads, with the initial b_dec.
        preprocess: Preprocessing that the space was made of.
        statistics: The layer's arrays.
        config: Sizes.
        variant: The method.
        seed: Seed of directions and of the tokens that they start from.
    """
    rows, columns, tokens = variant.init.rows, preprocess.subspace, None
    if rows.kind == "whitened":
        columns = whitening_directions(statistics, rows.alpha, train.name)
    elif rows.kind == "datapoint":
        tokens = torch.from_numpy(draw_rows(space.prepare(train), config.d_sae, seed))
    sae = initial_sae(
        len(space.initial_bias),
        config,
        variant,
        seed=seed,
        b_dec=space.initial_bias,
        subspace=None if columns is None else torch.from_numpy(columns),
        tokens=tokens,
    ).to(space.device)
    if variant.init.firing_rate is not None:
        set_firing_rate(sae, _first_batch(train, space, config), variant.init.firing_rate)
    if variant.init.calibrate:
        calibrate(sae, _first_batch(train, space, config))
    return sae


def _first_batch(train: Rows, space: Space, config: TrainConfig) -> Tensor:
    """The first rows, which will do: rows are shuffled when they are stored."""
    first = read_float32(space.prepare(train), 0, min(config.batch_size, train.shape[0]))
    return torch.from_numpy(first).to(space.device)


def draw_rows(rows: Rows, count: int, seed: int) -> NDArray[np.float32]:
    """Reads `count` of the first 65,536 rows at random, [count, d]; some twice only if there are fewer."""
    available = min(rows.shape[0], SCALE_ROWS)
    chosen = np.sort(np.random.default_rng(seed).choice(available, count, replace=count > available))
    parts = []
    for start in range(0, available, rows.block_rows):
        stop = min(start + rows.block_rows, available)
        inside = chosen[(chosen >= start) & (chosen < stop)] - start
        if len(inside):
            parts.append(read_float32(rows, start, stop)[inside])
    return np.concatenate(parts)
