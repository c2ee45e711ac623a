"""Deaths at initialization on the device, by products and torch's topk, against the library's count on a CPU."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.card import Card
from benchmarks.gpu.report import Row
from saelib.activations.rows import ArrayRows
from saelib.init_death.encoder import random_encoder
from saelib.init_death.measure import measure
from saelib.preprocessing.transform import Preprocessing

BLOCK = 4096
DEAD = "latents dead on one alone"
BOUNDS = {DEAD: 2}
"""A pre-activation that float32 rounds across a bar may bring one latent to life, or not."""


def rows(card: Card) -> Iterator[Row]:
    """Raw and centered activations, one dictionary, in float32."""
    tokens, d_in, d_sae, k = card.either((100_000, 768, 8192, 64), (2000, 16, 128, 4))
    rng = np.random.default_rng(0)
    mean = 5 * rng.standard_normal(d_in)
    values = rng.standard_normal((tokens, d_in), dtype=np.float32) + mean.astype(np.float32)
    preprocessings = {"raw": Preprocessing(np.zeros(d_in)), "center_mean": Preprocessing(mean)}
    wanted = measure(ArrayRows(values), preprocessings, d_sae, k, seeds=[0], threads=torch.get_num_threads())

    x = torch.from_numpy(values).to(card.device)
    W_enc = torch.from_numpy(random_encoder(d_in, d_sae, seed=0)).to(card.device)
    product = card.median_ms(lambda: [part @ W_enc for part in x.split(BLOCK)], 3)
    yield Row("the products alone", {"ms": product})
    for name, preprocessing in preprocessings.items():
        center = torch.from_numpy(preprocessing.center.astype(np.float32)).to(card.device)
        count = partial(_fired, x, center, W_enc, k)
        dead = 1 - float(count().double().mean())
        difference = round(abs(dead - wanted[name].dead_total.mean) * d_sae)
        figures = {"ms": card.median_ms(count, 3), "dead, %": 100 * dead, DEAD: difference}
        yield Row(name, figures, BOUNDS)


def _fired(x: Tensor, center: Tensor, W_enc: Tensor, k: int) -> Tensor:
    """Which latents are among the k largest of a token and positive: boolean [d_sae]."""
    counts = torch.zeros(W_enc.shape[1], dtype=torch.int32, device=x.device)
    for part in x.split(BLOCK):
        values, latents = ((part - center) @ W_enc).topk(k, dim=1, sorted=False)
        counts.index_add_(0, latents.flatten(), (values > 0).flatten().int())
    return counts > 0
