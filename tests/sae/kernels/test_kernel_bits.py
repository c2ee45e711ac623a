"""The process that compiles the kernels finds the same bits as those that load them from numba's cache."""

from collections.abc import Callable

import pytest

from saelib.sae.kernels.cpu import why_unsupported

pytestmark = pytest.mark.skipif(why_unsupported() is not None, reason="the kernels do not run on this processor")

CompiledAndCached = Callable[[str], tuple[list[str], list[str]]]
SCRIPT = """
import hashlib
import numpy as np
from saelib.config.training import VariantConfig
from saelib.sae.kernels.entries import empty_codes_by_latent
from saelib.sae.kernels.gemm import pack
from saelib.sae.kernels.integers import empty_panels, empty_rows
from saelib.sae.kernels.latents import Packed, LossTerm, StepTotals, update_latents
from saelib.sae.kernels.rule import optimizer_step
from saelib.sae.kernels.parameters import Parameters
from saelib.sae.kernels.sums import empty_weight_gradients

d_in, d_sae, uses = 64, 128, 100
draw = np.random.default_rng(0)
weights, first, second = (Parameters(d_in, d_sae).latents for _ in range(3))
sums = empty_weight_gradients(d_sae, d_in)
for array in (*weights, *sums):
    array[:] = draw.standard_normal(array.shape)
entries = empty_codes_by_latent(d_sae, uses * d_sae)
entries.starts[:] = np.arange(d_sae + 1) * uses
entries.code_grads[:] = draw.standard_normal(uses * d_sae)
main, auxk = LossTerm(entries, np.float32(0.1)), LossTerm(empty_codes_by_latent(d_sae, 0), np.float32(0))
floats = pack(weights.W_enc, d_in)
packed, buffers = Packed(floats, empty_panels(0, d_in)), (np.zeros((2, d_in), np.float32), empty_rows(1, d_in))
totals = StepTotals(np.zeros(d_in, np.float32), np.zeros(1))
rule, untouched = optimizer_step(VariantConfig(), 100, 1, 1e-3), np.zeros(d_sae, bool)
update_latents(0, len(floats), weights, first, second, packed, sums, main, auxk, untouched, rule, *buffers, totals)
outputs = (*weights, *first, *second, *totals)
print(sum(update_latents.stats.cache_hits.values()), *(hashlib.sha256(x).hexdigest() for x in outputs))
"""


def test_compiling_changes_no_bit(compiled_and_cached: CompiledAndCached) -> None:
    (compiling_hits, *compiling), (cached_hits, *cached) = compiled_and_cached(SCRIPT)
    assert (compiling_hits, cached_hits) == ("0", "1")
    assert compiling == cached
