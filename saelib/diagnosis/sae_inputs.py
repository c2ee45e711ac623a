"""Inputs that an SAE may have been trained on: activations scaled, centered, normalized, or freed of a double step."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from saelib.activations.rows import Rows, read_float32
from saelib.config.preprocessings import PreprocessingName
from saelib.preprocessing.fit import make_preprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.file import SavedSAE
from saelib.sae.fold import fold_preprocess
from saelib.stats.layer_stats import LayerStats

SCREENED_ROWS, COMPARED_ROWS = 128, 512
"""Rows that every input is tried on, and those that the best ones are compared on."""
COMPARED = 4
"""Inputs that are compared on more rows."""
NEARLY = 1.1
"""An input that people use is preferred to one with a slightly smaller error."""
FITTED: dict[PreprocessingName, str] = {
    "center_median": "minus their geometric median",
    "center_mean": "minus their mean",
    "zscore": "minus their mean and divided by the standard deviation, dimension by dimension",
    "pca": "whitened",
}
"""Preprocessings that are fitted to the activations, and the names of these inputs."""


@dataclass(frozen=True, eq=False)
class Input:
    """Something done to the activations before an SAE reads them."""

    name: str
    """Ends the sentence 'it reads these activations ...'."""
    change: Preprocessing
    """It is applied to the activations first, and undone in the reconstruction."""
    sae: SavedSAE
    """The SAE that reads the result."""
    applied_twice: bool = False
    """True if this input takes back a step that the SAE does itself."""
    factor: float = 1.0
    """The factor that `change` multiplies by, if it does nothing else."""

    def unexplained(self, x: NDArray[np.float32], center: NDArray[np.floating]) -> float:
        """Measures the median of the tokens' ||x - x_hat||^2 / ||x - center||^2; `x` is [tokens, d_in]."""
        given, own = self.change.apply(x), self.sae.preprocess
        with torch.no_grad():
            out = self.sae.sae(torch.from_numpy(own.apply(given))).numpy()
        x_hat = self.change.restore(own.restore(out, given), x)
        error, spread = (np.square(x - other).sum(axis=1, dtype=np.float64) for other in (x_hat, center))
        return float(np.median(error[spread > 0] / spread[spread > 0]))


@dataclass(frozen=True)
class Comparison:
    """The error of an SAE as it is, and with the best other input."""

    as_is: float
    best: Input
    unexplained: float
    """The error with the best other input."""


def compare_inputs(saved: SavedSAE, rows: Rows, stats: LayerStats) -> Comparison:
    """Tries inputs of an SAE on rows of its width, which are spread evenly over all rows."""
    x, center = _spread(rows, COMPARED_ROWS), stats.arrays["center_median"]
    few = x[:: max(1, len(x) // SCREENED_ROWS)]

    def best(inputs: Iterable[Input], count: int) -> list[Input]:
        return sorted(inputs, key=lambda one: one.unexplained(few, center))[:count]

    scale = best((_scaled(saved, 2.0**power) for power in range(-8, 9) if power), 1)[0]
    nearby = best((_scaled(saved, scale.factor * 2 ** (step / 8)) for step in range(-4, 5)), 1)
    inputs = [*_applied_twice(saved), *_conventional(saved, x, stats), *nearby]
    finalists = set(best(inputs, COMPARED))
    compared = {one: one.unexplained(x, center) for one in inputs if one in finalists}
    lowest = min(compared.values())
    chosen = next(one for one, error in compared.items() if error <= NEARLY * lowest)
    as_is = Input("as they are", _identity(saved.preprocess.d_in), saved)
    return Comparison(as_is.unexplained(x, center), chosen, compared[chosen])


def _applied_twice(saved: SavedSAE) -> Iterator[Input]:
    """Inputs for rows to which the SAE's own center or preprocessing was applied before."""
    own, d_in = saved.preprocess, saved.preprocess.d_in
    center = fold_preprocess(saved).sae.b_dec.detach().double().numpy()
    if own.token_norm == "none" and center.any():
        yield Input("plus the SAE's own center", Preprocessing(-center), saved, applied_twice=True)
    if own.d_out == d_in and (own.scale is not None or own.center.any() or own.token_norm != "none"):
        without = replace(saved, preprocess=_identity(d_in))
        yield Input("without the SAE's own preprocessing", _identity(d_in), without, applied_twice=True)


def _conventional(saved: SavedSAE, x: NDArray[np.float32], stats: LayerStats) -> Iterator[Input]:
    """Inputs that people train on; the simplest come first."""
    d_in, zero = stats.d_in, np.zeros(stats.d_in)
    lengths = np.linalg.norm(x.astype(np.float64), axis=1)
    root, rms = float(np.sqrt(d_in)), float(np.sqrt(np.square(lengths).mean()))
    for preprocessing, name in FITTED.items():
        if preprocessing == "pca" and stats.tokens <= d_in:
            continue
        change = make_preprocessing(preprocessing, stats.arrays, tokens=stats.tokens)
        if change.d_out == d_in:
            yield Input(name, change, saved)
    for factor, length in ((root / lengths.mean(), "sqrt(d_in)"), (1 / lengths.mean(), "1"), (1 / rms, "1 (r.m.s.)")):
        yield _scaled(saved, factor, f"multiplied by {factor:.3g}, which makes their average length {length}")
    yield Input("after LayerNorm, token by token", Preprocessing(zero, None, "layernorm"), saved)
    yield Input("rescaled to length sqrt(d_in), token by token", Preprocessing(zero, None, "sqrt_d"), saved)
    unit = Preprocessing(zero, np.full(d_in, 1 / root, np.float32), "sqrt_d")
    yield Input("rescaled to length 1, token by token", unit, saved)


def _scaled(saved: SavedSAE, factor: float, name: str | None = None) -> Input:
    d_in = saved.preprocess.d_in
    change = Preprocessing(np.zeros(d_in), np.full(d_in, factor, np.float32))
    return Input(name or f"multiplied by about {factor:.2g}", change, saved, factor=factor)


def _identity(d_in: int) -> Preprocessing:
    return Preprocessing(np.zeros(d_in))


def _spread(rows: Rows, count: int) -> NDArray[np.float32]:
    """Reads `count` rows that are spread evenly, block by block."""
    total = rows.shape[0]
    wanted = np.linspace(0, total - 1, min(count, total)).astype(np.int64)
    found = []
    for start in range(0, total, rows.block_rows):
        stop = min(start + rows.block_rows, total)
        inside = wanted[(wanted >= start) & (wanted < stop)] - start
        if len(inside):
            found.append(read_float32(rows, start, stop)[inside])
    return np.concatenate(found)
