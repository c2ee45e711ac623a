"""Death before training, predicted for every dictionary size, k and number of tokens from one pass of random probes.

Counting needs a pass for each dictionary. The cap law (`saelib.theory.cap_law`) needs only the cosines of the tokens
with some thousand random unit vectors, the probes: each stands for a latent of a dictionary of any size. They are
spread evenly along the mean direction of the tokens, because death depends most on it.

>>> import numpy as np
>>> from saelib.activations.rows import ArrayRows
>>> from saelib.init_death.probes import probe_death
>>> from saelib.preprocessing.transform import Preprocessing
>>> tokens = np.random.default_rng(0).standard_normal((5000, 64)) + 1
>>> preprocessings = {"raw": Preprocessing(np.zeros(64)), "centered": Preprocessing(np.ones(64))}
>>> probed = probe_death(ArrayRows(tokens), preprocessings)
>>> death = probed["raw"].dead(d_sae=8192, k=64)
>>> print(f"{death.dead_total:.0%} dead, standard error {death.se_total:.0%}")
38% dead, standard error 1%
>>> print(f"{probed['centered'].dead(d_sae=32768, k=64, tokens=1000).dead_total:.0%}")
15%

`dead` is for TopK; `dead_batch_topk` and `dead_below` (ReLU, JumpReLU) are for the other architectures. Predict if
counting, by `saelib.init_death.measure`, is too slow.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from saelib.activations.rows import Rows
from saelib.errors import UserError
from saelib.init_death.encoder import stratified_probes
from saelib.init_death.groups import Group, doubling, finite_block, group_shifts
from saelib.init_death.probed import BINS, ProbedDeath, bins_per_cosine
from saelib.preprocessing.transform import Preprocessing
from saelib.progress import Advance

PART = 256
"""Probes that are multiplied at a time; parts are shared out among threads."""

SLICE = 1024
"""Tokens that are multiplied at a time: with `PART` probes 1 MB of products, which stay in cache."""

NEAR = 1e-2
"""A token shorter than this share of the distance between two centers gets its own products: as a difference of two
products that are a hundred times as large, they would begin to show rounding."""

SAMPLE = 2048
"""Size of the sample of tokens in which those near each probe are compared with each other."""

SHORTEST, LONGEST = 1e-30, 1e30
"""Lengths between which products and their ratios are numbers in float32; a shorter token counts as zeros."""

NEAREST = 4
"""Tokens of the sample that count as near a probe."""

FIRST = 512
"""Tokens whose mean direction the probes are spread along; a poor choice costs precision but causes no bias."""


def probe_death(
    rows: Rows,
    preprocessings: Mapping[str, Preprocessing],
    probes: int = 2048,
    seed: int = 0,
    threads: int = 1,
    progress: Advance | None = None,
) -> dict[str, ProbedDeath]:
    """Reads `rows` once, for predictions of death at every d_sae, k and number of tokens.

    Args:
        rows: Held-out activations.
        preprocessings: Name -> preprocessing, of the width of `rows`.
        probes: Number of random unit vectors. The standard error is at most about 1 / (2 sqrt(probes)), 1.1 points, and
            about half of that if a mean that all tokens share decides.
        seed: Seed of the probes, which preprocessings that differ by their centers alone share.
        threads: Number of threads, which share the probes and preprocessings; it does not change the result.
        progress: Called after each block with its number of tokens.

    Returns:
        Name -> what its probes predict from.

    Raises:
        UserError: If there are no tokens, probes or preprocessings, if a preprocessing has another width or leaves
            fewer than 2 dimensions, or if activations hold NaN, infinity or tokens longer than 1e30.
    """
    _check(rows, preprocessings, probes)
    tokens = rows.shape[0]
    curve_tokens = doubling(tokens)
    sample = np.sort(np.random.default_rng(seed).permutation(tokens)[:SAMPLE])
    probings: dict[str, _Probing] = {}
    shared: list[_Products] = []
    for group in group_shifts(rows, preprocessings):
        units = stratified_probes(_mean_direction(rows, group.uncentered), probes, seed)
        members = [_Probing(rows.name, one, curve_tokens, sample, units) for one in group.preprocessings]
        probings |= dict(zip(group.names, members, strict=True))
        shared.append(_Products(group, members))
    with threadpool_limits(1, user_api="blas"), ThreadPoolExecutor(threads) as pool:
        for start in range(0, tokens, rows.block_rows):
            block = finite_block(rows, start)
            taken = [pool.submit(probing.take, block, rows.offset, start) for probing in probings.values()]
            taken += [pool.submit(products.take, block, rows.offset) for products in shared]
            for done in taken:
                done.result()
            parts = [(products, part) for products in shared for part in range(0, probes, PART)]
            for done in [pool.submit(products.record, part) for products, part in parts]:
                done.result()
            if progress is not None:
                progress(len(block))
        results = {name: pool.submit(probings[name].result) for name in preprocessings}
        return {name: result.result() for name, result in results.items()}


def _mean_direction(rows: Rows, preprocess: Preprocessing) -> NDArray[np.float64]:
    """Unit vector [d_out] along the mean of the first tokens, each scaled to length 1; if it is 0, the first axis."""
    values = preprocess.apply(rows.block(0, min(FIRST, rows.shape[0])), rows.offset).astype(np.float64)
    lengths = np.linalg.norm(values, axis=1, keepdims=True)
    kept = (lengths[:, 0] > 0) & np.isfinite(lengths[:, 0])
    mean = (values[kept] / lengths[kept]).sum(axis=0)
    length = np.linalg.norm(mean)
    return mean / length if length > 0 else np.eye(preprocess.d_out)[0]


class _Probing:
    """The probes of one preprocessing, and their maxima and histograms so far."""

    def __init__(
        self,
        name: str,
        preprocess: Preprocessing,
        curve_tokens: tuple[int, ...],
        sample: NDArray[np.intp],
        units: NDArray[np.float32],
    ) -> None:
        (probes, d), self._name = units.shape, name
        self._preprocess, self._curve_tokens, self._sample = preprocess, curve_tokens, sample
        self.probes = units
        self._bins_per_cosine = np.float32(bins_per_cosine(d))
        # Row i holds what the tokens from curve_tokens[i - 1] to curve_tokens[i] add.
        self._largest_cosine = np.full((len(curve_tokens), probes), -1, np.float32)
        self._largest_product = np.full((len(curve_tokens), probes), -np.inf, np.float32)
        self._counts = np.zeros((len(curve_tokens), probes, 1 + BINS), np.int32)
        self._lengths = np.zeros(curve_tokens[-1], np.float32)
        self._sampled = np.zeros((len(sample), d), np.float32)

    def take(self, block: NDArray[np.floating], offset: NDArray[np.float32] | None, start: int) -> None:
        """Preprocesses the tokens from `start` on, for `record`."""
        values = self._preprocess.apply(block, offset)
        stop = start + len(values)
        lengths = np.sqrt(np.einsum("td,td->t", values, values, dtype=np.float64))
        if not lengths.max() <= LONGEST:
            row = start + int(np.argmax(~(lengths <= LONGEST)))
            raise UserError(
                f"{self._name}: row {row} is longer than {LONGEST:.0e}; multiply all activations by one number"
            )
        self._lengths[start:stop] = np.where(lengths < SHORTEST, 0, lengths)
        first, last = np.searchsorted(self._sample, [start, stop])
        self._sampled[first:last] = values[self._sample[first:last] - start]
        self.start, self._values = start, values

    def record(self, place: tuple[int, int, int], part: int, products: NDArray[np.float32] | None) -> None:
        """Updates the probes from `part` on by some tokens.

        Args:
            place: The row of the curve, first token, last token + 1.
            part: The first of the probes.
            products: [probes, tokens]; None: they are computed here.
        """
        from saelib.init_death.probe_kernels import record_products  # imports numba, which takes a while

        row, start, stop = place
        of_part = slice(part, part + PART)
        lengths = self._lengths[start:stop]
        # A token at the center has no direction and selects nothing.
        kept = lengths > 0
        if products is None:
            products = self.probes[of_part] @ self._values[start - self.start : stop - self.start].T
        record_products(
            products if kept.all() else np.ascontiguousarray(products[:, kept]),
            1 / lengths[kept],
            self._bins_per_cosine,
            self._largest_product[row, of_part],
            self._largest_cosine[row, of_part],
            self._counts[row, of_part],
        )

    def is_far(self, start: int, stop: int, distance: float) -> bool:
        """True if all these tokens are so long that a difference of vectors as long as `distance` is precise."""
        lengths = self._lengths[start:stop]
        return bool(lengths[lengths > 0].min(initial=np.inf) > NEAR * distance)

    def slices(self) -> Iterator[tuple[int, int, int]]:
        """Cuts the tokens that were taken at the points of the curve: yields its row, first token, last token + 1."""
        start, stop = self.start, self.start + len(self._values)
        while start < stop:
            row = int(np.searchsorted(self._curve_tokens, start, side="right"))
            end = min(stop, start + SLICE, self._curve_tokens[row])
            yield row, start, end
            start = end

    def result(self) -> ProbedDeath:
        return ProbedDeath(
            d=self.probes.shape[1],
            curve_tokens=self._curve_tokens,
            largest_cosine=np.maximum.accumulate(self._largest_cosine),
            largest_product=np.maximum.accumulate(self._largest_product),
            counts=self._counts[..., 1:].cumsum(axis=0, dtype=np.int32),
            lengths=self._lengths,
            near_cosines=self._near_cosines(),
        )

    def _near_cosines(self) -> NDArray[np.float32]:
        """Quantiles of the cosines between tokens of the sample that are nearest to the same probe, over all probes."""
        lengths = self._lengths[self._sample]
        units = self._sampled[lengths > 0] / lengths[lengths > 0, None]
        nearest = min(NEAREST, len(units))
        if nearest < 2:
            return np.zeros(1, np.float32)
        top = np.concatenate([self._nearest(units, part, nearest) for part in range(0, len(self.probes), PART)])
        pairs = [(top[:, i], top[:, j]) for i in range(nearest) for j in range(i)]
        cosines = np.concatenate([np.einsum("pd,pd->p", units[a], units[b]) for a, b in pairs])
        return np.quantile(cosines, (np.arange(256) + 0.5) / 256).astype(np.float32)

    def _nearest(self, units: NDArray[np.float32], part: int, nearest: int) -> NDArray[np.intp]:
        """[probes of the part, nearest]: numbers of the unit tokens with the largest cosines."""
        return np.argpartition(-(self.probes[part : part + PART] @ units.T), nearest - 1, axis=1)[:, :nearest]


class _Products:
    """The products of probes and tokens that preprocessings of one group share: they differ by a number per probe."""

    def __init__(self, group: Group, probings: list[_Probing]) -> None:
        self._base, self._probings = group.base, probings
        self._distances = np.linalg.norm(group.deltas, axis=1)
        self._shifts = (group.deltas @ probings[0].probes.T).astype(np.float32)

    def take(self, block: NDArray[np.floating], offset: NDArray[np.float32] | None) -> None:
        """Preprocesses the tokens of a block by the base, for `record`."""
        self._values = self._base.apply(block, offset) if len(self._probings) > 1 else None

    def record(self, part: int) -> None:
        """Multiplies the tokens that were taken by the probes from `part` on, once for all of the group."""
        first = self._probings[0]
        for row, start, stop in first.slices():
            products = None
            for probing, distance, shift in zip(self._probings, self._distances, self._shifts, strict=True):
                of_probing = None
                if self._values is not None and probing.is_far(start, stop, distance):
                    if products is None:
                        values = self._values[start - first.start : stop - first.start]
                        products = first.probes[part : part + PART] @ values.T
                    of_probing = products + shift[part : part + PART, None]
                probing.record((row, start, stop), part, of_probing)


def _check(rows: Rows, preprocessings: Mapping[str, Preprocessing], probes: int) -> None:
    if rows.shape[0] < 1:
        raise UserError(f"{rows.name}: holds no tokens to predict death on")
    if probes < 1 or not preprocessings:
        raise UserError(f"{rows.name}: predicting death needs at least one probe and one preprocessing")
    for name, preprocess in preprocessings.items():
        if preprocess.d_out < 2:
            raise UserError(
                f"{rows.name}: the preprocessing '{name}' leaves 1 dimension; with fewer than 2, all latents are "
                f"equal or opposite, and nothing is predicted"
            )
