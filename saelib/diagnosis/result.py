"""The diagnosis of a layer: typed fields, as JSON, as a screen of text, as a picture, and as a card in a notebook."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from saelib.diagnosis.intervals import Intervals
from saelib.diagnosis.massive import MassiveTokens
from saelib.diagnosis.names import IN_JSON, Remedy
from saelib.init_death.landscape import Landscape
from saelib.init_death.result import InitDeath
from saelib.stats.outliers import OutlierDimension

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.figure import Figure

    from saelib.diagnosis.sae_check import SAEFindings
    from saelib.preprocessing.transform import Preprocessing


@dataclass(frozen=True)
class DeadFractions:
    """Fractions of the latents, each in [0, 1]."""

    dead_relu: float
    """Latents that are positive on no token."""
    dead_topk_only: float
    """Latents that are positive on some token, but never among the k largest; 0 for ReLU and JumpReLU."""
    dead_total: float
    """Latents that are selected on no token: the sum of the two."""
    standard_error: float
    """Standard error of `dead_total` over random dictionaries."""


@dataclass(frozen=True)
class Diagnosis:
    """The answer of `saelib.diagnose` for one layer. `print` it, `plot` it, or let a notebook show it."""

    name: str
    """Name of the activations: a path, or `activations`."""
    tokens: int
    """Rows that were read; evenly spread if there are more."""
    available: int
    """Rows that there are."""
    d_in: int
    d_sae: int
    k: int
    architecture: str
    """`topk`, `batch_topk`, `relu` or `jumprelu`: what the recommendation is made for."""
    gamma: float | None
    """||mean|| / ||std|| after LayerNorm of each token: the paper's."""
    gamma_raw: float | None
    """The same of the tokens as they are."""
    gamma_unit: float | None
    """The same of the tokens at unit length, which is what death sees."""
    effective_rank: float | None
    excess_kurtosis: float | None
    intervals: Intervals
    outlier_dimensions: list[OutlierDimension]
    massive_tokens: MassiveTokens
    predicted: dict[str, DeadFractions]
    """Preprocessing -> death by the cap law, from 2,048 random directions."""
    measured: dict[str, DeadFractions]
    """Preprocessing -> death counted on these rows with real dictionaries; empty for BatchTopK, whose bar depends on
    the batch."""
    other_architectures: dict[str, dict[str, float]]
    """Architecture -> preprocessing -> predicted `dead_total`, for those other than `architecture`."""
    curve_tokens: tuple[int, ...]
    """Numbers of tokens that `curves` are read off at."""
    curves: dict[str, tuple[float, ...]]
    """Preprocessing -> counted `dead_total` after so many tokens; empty if nothing was counted."""
    landscape: Landscape
    """Predicted `dead_total` of TopK SAEs of other sizes."""
    recommendation: Remedy
    confidence: Literal["high", "moderate", "low"]
    reasons: list[str]
    """Sentences: what was found, why this remedy, how sure, and what it costs."""
    warnings: list[str]
    """Sentences that a reader of these numbers should know."""
    verdict: str
    """The answer in a sentence or two."""
    sae: "SAEFindings | None" = None
    """Findings about the SAE that was given."""
    preprocessing: "Preprocessing | None" = field(default=None, repr=False, compare=False)
    """The recommended preprocessing, fitted to these rows: `apply` it, or take its `center`."""
    death: InitDeath | None = field(default=None, repr=False, compare=False)
    """The whole measurement."""

    @property
    def recommended(self) -> str:
        """The preprocessing that the recommendation stands for: `raw`, `center_median` or `pca`."""
        return {"none": "raw", "mean_center": "center_median", "pca_whiten": "pca"}[self.recommendation]

    @property
    def center(self) -> NDArray[np.float32]:
        """The start of b_dec, [d_in]: zeros if nothing needs to be done; for whitening, the mean that it subtracts."""
        assert self.preprocessing is not None
        return self.preprocessing.center.astype(np.float32)

    def dead(self, preprocessing: str) -> DeadFractions:
        """Gives the death that was counted under a preprocessing, or the predicted one if none was counted."""
        return self.measured.get(preprocessing, self.predicted[preprocessing])

    def to_dict(self) -> dict[str, Any]:
        """Gives the content of `saelib diagnose --json`: numbers, strings, lists and dicts."""
        hidden = ("preprocessing", "death", "landscape", "sae", "predicted", "measured", "curves")
        plain = {name: _plain(getattr(self, name)) for name in self.__dataclass_fields__ if name not in hidden}
        plain["predicted"] = _named(self.predicted)
        plain["measured"] = _named(self.measured)
        plain["curves"] = {IN_JSON[name]: list(curve) for name, curve in self.curves.items()}
        plain["other_architectures"] = {a: _named(of) for a, of in self.other_architectures.items()}
        plain["landscape"] = {
            "d_sae": list(self.landscape.d_sae),
            "k": list(self.landscape.k),
            "dead_total": {IN_JSON[n]: [list(row) for row in of] for n, of in self.landscape.dead_total.items()},
        }
        if self.sae is not None:
            plain["sae"] = _plain(self.sae)
        return plain

    def plot(self) -> "Figure":
        """Draws the death under each preprocessing, and how it depends on d_sae and k, as a matplotlib figure."""
        from saelib.diagnosis.picture import draw

        return draw(self)

    def to_html(self, path: "str | Path") -> None:
        """Writes the diagnosis as one page that needs nothing else."""
        from saelib.diagnosis.card import write_page

        write_page([self], path)

    def _repr_html_(self) -> str:
        """Shows the card in a notebook."""
        from saelib.diagnosis.card import card

        return card(self)

    def __str__(self) -> str:
        """Gives the screen of text that `saelib diagnose` prints."""
        from saelib.diagnosis.screen import as_text

        return as_text(self)

    def __repr__(self) -> str:
        """Shows the sizes, the recommendation and the verdict."""
        sizes = f"{self.tokens:,} tokens x {self.d_in:,}, d_sae={self.d_sae:,}, k={self.k}"
        return f"Diagnosis({self.name!r}, {sizes}: {self.recommendation})"


def _plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return asdict(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _named(of: Mapping[str, Any]) -> dict[str, Any]:
    return {IN_JSON[name]: _plain(value) for name, value in of.items()}
