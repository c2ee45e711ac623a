"""The start of a sweep: a layer's rows and statistics, and a variant, become SAEs at step 0."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelib.activations.rows import Rows
from saelib.config import TrainConfig, VariantConfig
from saelib.config.training import StreamConfig
from saelib.errors import UserError
from saelib.evaluation.space import Space
from saelib.preprocessing.fit import make_preprocessing
from saelib.sae.choose import make_trainers
from saelib.sae.origin import UNKNOWN, Origin
from saelib.sae.trainer import TrainerSettings
from saelib.sources.precision import pick_device
from saelib.train.first_sae import first_sae
from saelib.train.halves import choosing_half
from saelib.train.sweep import Run, RunningSweep, Subject


@dataclass(frozen=True, eq=False)
class LayerData:
    """A layer's rows and statistics: all that training needs to know of it."""

    train: Rows
    """Rows to train on, or at least rows like them: scales are measured on them."""
    heldout: Rows
    """Rows of other examples, for measurements."""
    statistics: Mapping[str, NDArray[Any]]
    """The layer's arrays, as `make_preprocessing` takes them."""
    heldout_examples: NDArray[np.integer] | None = None
    """[tokens], the example that each held-out row came from, so that no example is in both halves
    (`saelib.train.halves`). None: neighboring rows are taken to belong together."""
    stream: StreamConfig | None = None
    """Options of the stream that the batches come from, if they do not come from `train`."""


def start_sweep(
    data: LayerData,
    config: TrainConfig,
    variant: VariantConfig,
    *,
    subject: Subject,
    seed: int,
    device: str = "auto",
    reason: str | None = None,
    origin: Origin = UNKNOWN,
) -> RunningSweep:
    """Fits the preprocessing, measures the scale, draws the weights, and makes a trainer for each learning rate.

    Nothing is written: the same arguments give the same sweep.

    Args:
        data: The layer's rows and statistics.
        config: Sizes, steps and learning rates.
        variant: The method; its preprocessing is not `auto` (see `saelib.train.rules`).
        subject: Names for messages and results.
        seed: Seed of the initial weights, of the order of batches, and of random choices during training.
        device: A name that torch knows, or `auto`: CUDA if there is a GPU, otherwise the CPU.
        reason: Why this preprocessing was chosen, if it was chosen automatically.
        origin: What is known of the activations, for the SAE's file.

    Raises:
        UserError: if the rows are constant or not finite, fewer than two are held out, or the preprocessing cannot be
            fitted.
    """
    tokens, heldout = data.train.shape[0], data.heldout
    if heldout.shape[0] < 2:
        raise UserError(
            f"{heldout.name}: {heldout.shape[0]} held-out tokens; at least 2 are needed, to choose a learning rate "
            "on one half and to measure on the other (extraction.heldout_tokens)"
        )
    if device == "auto":
        device = pick_device(float64=True)  # sums of the evaluation are float64
    preprocess = make_preprocessing(variant.preprocessing, data.statistics, tokens=tokens, name=str(subject))
    space = Space(preprocess, data.train, device)
    choosing = choosing_half(heldout.shape[0], data.heldout_examples, heldout.name)
    sae = first_sae(data.train, space, preprocess, data.statistics, config, variant, seed)
    rates = variant.learning_rates or config.learning_rates
    settings = [TrainerSettings(config, variant, rate, space.trained.variance, seed, config.threads) for rate in rates]
    runs = [Run(rate, trainer) for rate, trainer in zip(rates, make_trainers(sae, settings), strict=True)]
    batches = {"seed": seed, "train_tokens": tokens, "stream": data.stream and data.stream.deciding()}
    deciding = config.deciding(variant) | batches
    return RunningSweep(subject, config, variant, seed, deciding, space, heldout, choosing, runs, reason, origin=origin)
