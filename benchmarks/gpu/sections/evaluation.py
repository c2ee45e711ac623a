"""Measuring SAEs on held-out rows: the figures against float64 on a CPU after every preprocessing, and the times."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import get_args

import numpy as np

from benchmarks.gpu.card import Card
from benchmarks.gpu.methods import ARCHITECTURES
from benchmarks.gpu.report import Row
from saelib.activations.rows import ArrayRows, Rows
from saelib.config import TrainConfig, VariantConfig
from saelib.config.preprocessings import PreprocessingName
from saelib.evaluation.reconstruction import Evaluation, evaluate, rows_at_a_time
from saelib.evaluation.space import Sample, Space
from saelib.preprocessing.fit import make_preprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.initial_weights import initial_sae
from saelib.sae.model import SAE
from saelib.stats import compute_stats

ERROR, DEAD = "worst error", "latents dead on one alone"
BOUNDS = {ERROR: 1e-4, DEAD: 2}
"""A pre-activation that float32 rounds across a bar may make one latent fire, or not."""


def rows(card: Card) -> Iterator[Row]:
    """Laws first, times of a recorded row of a training (2,048 held-out tokens) afterwards."""
    tokens, d_in = card.either((4096, 96), (512, 16))
    rng = np.random.default_rng(0)
    x = rng.standard_normal((tokens, d_in)) @ (rng.standard_normal((d_in, d_in)) / d_in**0.5)
    stored = ArrayRows((x + 3 * rng.standard_normal(d_in)).astype(np.float32))
    arrays = compute_stats(stored).arrays
    for kind in get_args(PreprocessingName):
        yield Row(kind, _compare(card, make_preprocessing(kind, arrays), stored), BOUNDS)
    for d_in in card.either((768, 4096), (32,)):
        yield from _times(card, d_in)


def _compare(card: Card, preprocessing: Preprocessing, stored: Rows) -> dict[str, float | int]:
    """The worst over all architectures: of errors relative to the figure, and of the numbers of dead latents."""
    d_in = stored.shape[1]
    errors, dead = [0.0], [0]
    for architecture in ARCHITECTURES.values():
        space, exact = (Space(preprocessing, stored, device) for device in (card.device, "cpu"))
        sae = _sae(preprocessing.d_out, 8 * d_in, 8, architecture, space)
        samples = [Sample(sample.x.double(), sample.activations) for sample in exact.samples(stored, 512, 512)]
        wanted = asdict(evaluate([sae.double()], samples, exact)[0])
        found = asdict(_measure(sae.float().to(card.device), space, stored, 512))
        for name, value in wanted.items():
            if name.startswith("dead"):
                dead.append(round(abs(found[name] - value) * 8 * d_in))
            elif value is not None:
                errors.append(abs(found[name] - value) / max(abs(value), 1e-2))
    return {ERROR: max(errors), DEAD: max(dead)}


def _measure(sae: SAE, space: Space, stored: Rows, tokens: int) -> Evaluation:
    return evaluate([sae], space.samples(stored, tokens, rows_at_a_time(sae.d_sae)), space)[0]


def _sae(d_in: int, d_sae: int, k: int, architecture: object, space: Space) -> SAE:
    variant = VariantConfig.model_validate({"architecture": architecture})
    return initial_sae(d_in, TrainConfig(d_sae=d_sae, k=k), variant, seed=0, b_dec=space.initial_bias)


def _times(card: Card, d_in: int) -> Iterator[Row]:
    tokens, d_sae = card.either((2048, 8192), (256, 64))
    values = np.random.default_rng(0).standard_normal((2 * tokens, d_in), dtype=np.float32)
    stored = ArrayRows(values.astype(np.float16), offset=np.zeros(d_in, np.float32))
    for title, scale in (("raw", None), ("whitened", np.eye(d_in, dtype=np.float32))):
        space = Space(Preprocessing(np.zeros(d_in), scale), stored, card.device)
        sae = _sae(d_in, d_sae, 16, "topk", space).to(card.device)
        samples = list(space.samples(stored, tokens, tokens))
        figures = {f"{name}, ms": _time(card, [sae] * n, samples, space) for name, n in (("one SAE", 1), ("seven", 7))}
        yield Row(f"d_in {d_in:,}, {title}, {tokens:,} tokens", figures)


def _time(card: Card, saes: list[SAE], samples: list[Sample], space: Space) -> float:
    return card.median_ms(lambda: evaluate(saes, samples, space), 3)
