"""Simulates how often 95 % intervals of Spearman's rho contain the true one, for few and many rows, ties and clusters.

Rows are pairs of normal variables. If they are clustered, each value is the sum of a part that its model's rows share
and a part of its own. Ties are made as death makes them: the lowest 60 or 80 % of y are the same value. Alternatively,
both sides are rounded to five values.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.timing import command_line, environment, environment_line, show
from saelib.stats.correlation import Spearman, spearman

PACKAGES = ("numpy", "scipy")
LARGE = 300_000
"""Rows whose rho counts as the true one."""

TIES = ("none", "60 % of y", "80 % of y", "five values")
RHOS = (0.0, 0.5, 0.9, 0.98)
ROWS = (5, 6, 8, 12, 20, 50, 100, 500)
UNEQUAL = (3, 30, 6, 16, 8)
"""Rows of five models, repeated for more models."""
PUBLISHED = (1, 5, 11, 11, 11, 11, 21, 23, 23, 26, 27, 31, 31, 32, 32, 35, 37, 39, 47)
"""The paper's 19 models."""
SUITE = (30, 6, 8, 12, 16)
"""The default suite's models."""
KINDS = ((0.9, 0.9, 0.7), (0.5, 0.9, 0.5), (0.0, 0.8, 0.8), (0.98, 0.98, 0.8), (0.9, 0.0, 0.3))
"""Correlation between models, within a model, and the models' share of the variance."""


@dataclass(frozen=True)
class Setting:
    """A distribution of pairs."""

    sizes: tuple[int, ...]
    """Rows of each model. A single number means independent rows, which belong to no model."""
    between: float
    within: float
    share: float
    ties: str

    @property
    def labels(self) -> NDArray[np.int64] | None:
        """The model of each row; None if rows are independent."""
        return None if len(self.sizes) == 1 else np.repeat(np.arange(len(self.sizes)), self.sizes)

    def draw(self, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Draws one sample of x and y, both [rows]."""
        x, y = _pairs(rng, sum(self.sizes), self.within)
        if self.labels is not None:
            shared = [side[self.labels] for side in _pairs(rng, len(self.sizes), self.between)]
            x, y = (self.share**0.5 * a + (1 - self.share) ** 0.5 * b for a, b in zip(shared, (x, y), strict=True))
        return _tied(x, y, self.ties)

    def truth(self) -> float:
        """Computes the rank correlation of very many rows of very many models."""
        return _truth(self.share * self.between + (1 - self.share) * self.within, self.ties)


@dataclass(frozen=True)
class Coverage:
    """Coverage of the intervals of one setting."""

    setting: Setting
    with_interval: int
    """Draws that gave an interval; the others had a constant side or a perfect order."""
    held: float
    """Share of these draws whose interval contains the true rho."""
    held_rows: float | None
    """The same for intervals that treat rows as independent; None if these were not asked for."""
    width: float
    """Mean width: high minus low."""


def main(argv: list[str]) -> None:
    parser = command_line("coverage", __doc__)
    parser.add_argument("--draws", type=int, default=1_000, help="number of draws for each setting")
    parser.add_argument("--quick", action="store_true", help="only a few settings")
    options = parser.parse_args(argv)
    found = {
        name: [cover(one, options.draws, one.labels is not None) for one in settings]
        for name, settings in tables(options.quick)
    }
    figures: dict[str, object] = {name: [asdict(one) for one in covered] for name, covered in found.items()}
    lines = [f"{'of 95 % intervals, in %:':44} {'least':>6} {'mean':>6} {'most':>6} {'width':>6} {'none':>6}  by rows"]
    lines += [line(name, covered, options.draws) for name, covered in found.items()]
    figures |= {"draws": options.draws, "environment": environment(*PACKAGES)}
    show(figures, [*lines, environment_line(*PACKAGES)], options.json)


def tables(quick: bool = False) -> Iterator[tuple[str, list[Setting]]]:
    """Yields a name for each line of the table, and the settings that the line summarizes."""
    for rows in ROWS[:3] if quick else ROWS:
        for ties in TIES:
            yield f"{rows} rows, ties: {ties}", [Setting((rows,), 0, rho, 0, ties) for rho in RHOS]
    models = {f"{count} models of 8 rows": (8,) * count for count in (3, 4, 5, 8, 12, 20)}
    models |= {f"{count} models of 3 to 30 rows": (UNEQUAL * 8)[:count] for count in (3, 5, 8, 12, 20, 40)}
    models |= {"the default suite's 5 models": SUITE, "the paper's 19 models": PUBLISHED}
    for name, sizes in list(models.items())[:1] if quick else models.items():
        for ties in TIES[:3]:
            yield f"{name}, ties: {ties}", [Setting(sizes, *kind, ties) for kind in KINDS]


def cover(setting: Setting, draws: int, by_rows: bool = False) -> Coverage:
    """Draws pairs again and again, and counts the intervals that contain the true rank correlation.

    Args:
        setting: The distribution of the pairs.
        draws: How many samples to draw.
        by_rows: Also count the intervals that treat the rows of models as independent.
    """
    rng, truth = np.random.default_rng(0), setting.truth()
    found, of_rows = [], []
    for _ in range(draws):
        x, y = setting.draw(rng)
        result = spearman(x, y, setting.labels)
        if result.ci_low is None:
            continue
        found.append(_ends(result))
        of_rows.append(_ends(spearman(x, y)) if by_rows else (None, None))
    ends, rows = np.array(found, dtype=float), np.array(of_rows, dtype=float)
    width = float(np.mean(ends[:, 1] - ends[:, 0]))
    return Coverage(setting, len(ends), _held(ends, truth), _held(rows, truth) if by_rows else None, width)


def line(name: str, found: Sequence[Coverage], draws: int) -> str:
    """Formats one line of the table, over the settings of one name."""
    held = 100 * np.array([one.held for one in found])
    rows = [100 * one.held_rows for one in found if one.held_rows is not None]
    width, none = (float(np.mean([getattr(one, key) for one in found])) for key in ("width", "with_interval"))
    covered = f"{held.min():6.1f} {held.mean():6.1f} {held.max():6.1f}"
    independent = f"{min(rows):.0f} to {max(rows):.0f}" if rows else ""
    return f"{name:44} {covered} {width:6.2f} {1 - none / draws:6.1%}  {independent}"


def _ends(result: Spearman) -> tuple[float | None, float | None]:
    return result.ci_low, result.ci_high


def _held(ends: NDArray[np.float64], truth: float) -> float:
    return float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean())


@cache
def _truth(rho: float, ties: str) -> float:
    x, y = _tied(*_pairs(np.random.default_rng(0), LARGE, rho), ties)
    return float(stats.spearmanr(x, y).statistic)  # type: ignore[union-attr]


def _pairs(rng: np.random.Generator, count: int, rho: float) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    x, other = rng.standard_normal((2, count))
    return x, rho * x + (1 - rho**2) ** 0.5 * other


def _tied(x: NDArray[np.float64], y: NDArray[np.float64], ties: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    if ties == "none":
        return x, y
    if ties == "five values":
        return np.clip(np.round(x), -2, 2), np.clip(np.round(y), -2, 2)
    return x, np.maximum(y, stats.norm.ppf({"60 % of y": 0.6, "80 % of y": 0.8}[ties]))
