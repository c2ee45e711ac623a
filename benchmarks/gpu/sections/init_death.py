"""Death at initialization, counted on the device, against the count of the CPU's kernels."""

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.gpu.card import Card
from benchmarks.gpu.report import Row
from saelib.init_death.device_trial import DeviceTrial
from saelib.init_death.encoder import random_encoder
from saelib.init_death.kernels import NEVER
from saelib.init_death.near import find_near
from saelib.init_death.trial import Trial
from saelib.preprocessing.transform import Preprocessing

DEAD, FIRSTS = "latents dead on one alone", "first tokens that differ"


def rows(card: Card) -> Iterator[Row]:
    """Raw and centered activations, one dictionary: the product alone, and the count, which must be the CPU's."""
    tokens, d_in, d_sae, k = card.either((100_000, 768, 8192, 64), (2000, 16, 128, 4))
    rng = np.random.default_rng(0)
    mean = 5 * rng.standard_normal(d_in)
    values = rng.standard_normal((tokens, d_in), dtype=np.float32) + mean.astype(np.float32)
    deltas, w_enc = np.stack([mean, np.zeros(d_in)]), random_encoder(d_in, d_sae, seed=0)
    x = Preprocessing(mean).apply(values)
    near = find_near(x, deltas, [Preprocessing(np.zeros(d_in)), Preprocessing(mean)], values, None)

    on_device, weights = torch.from_numpy(x).to(card.device), torch.from_numpy(w_enc).to(card.device)
    product = card.median_ms(lambda: [part @ weights for part in on_device.split(4096)], 3)
    yield Row("the products alone", {"ms": product})

    def count() -> DeviceTrial:
        trial = DeviceTrial(w_enc, deltas, k, card.device)
        trial.add(x, near, 0)
        return trial

    found, wanted = count(), Trial(w_enc, deltas, k)
    wanted.add(x, near, 0)
    dead = [(trial.first_selected == NEVER) for trial in (found, wanted)]
    figures = {"ms": card.median_ms(count, 3), "dead, %": 100 * float(dead[0].mean())}
    figures |= {"tokens decided by the CPU": found.decided_on_cpu, DEAD: int((dead[0] != dead[1]).sum())}
    figures[FIRSTS] = int((found.first_selected != wanted.first_selected).sum())
    yield Row("raw and center_mean", figures, {DEAD: 0, FIRSTS: 0})
