"""The process that compiles the kernels finds the same bits as those that load them from numba's cache."""

from collections.abc import Callable

CompiledAndCached = Callable[[str], tuple[list[str], list[str]]]
SCRIPT = """
import hashlib
import numpy as np
from saelib.stats.kernels import add_moments, add_pull

tokens, d_in = 200, 100
draw = np.random.default_rng(0)
values = draw.standard_normal((tokens, d_in), np.float32)
origin, pilots = draw.standard_normal(d_in, np.float32), draw.standard_normal((3, d_in), np.float32)
outputs = pull, totals, sums, squares, norms = (
    np.zeros(d_in), np.zeros(3), np.zeros((6, d_in)), np.zeros(2), np.zeros(tokens, np.float32)
)
add_pull(values, origin.astype(np.float64), True, 1e-5, np.full(d_in, 0.1), pull, totals)
add_moments(values, origin, pilots, np.float32(1e-5), sums, squares, norms)
print(sum(add_moments.stats.cache_hits.values()), *(hashlib.sha256(x).hexdigest() for x in (*outputs, values)))
"""


def test_compiling_changes_no_bit(compiled_and_cached: CompiledAndCached) -> None:
    (compiling_hits, *compiling), (cached_hits, *cached) = compiled_and_cached(SCRIPT)
    assert (compiling_hits, cached_hits) == ("0", "1")
    assert compiling == cached
