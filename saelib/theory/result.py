"""The predictions for a suite's layers, and the file they are kept in."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from saelib.config.sites import Site
from saelib.files.sealed import read_result, write_result


@dataclass(frozen=True)
class LayerPrediction:
    """Predictions of the closed forms for one layer; rates are fractions of the latents in [0, 1]."""

    model: str
    layer: int
    gamma_unit: float
    gamma: float | None
    d_sae: int
    k: int
    tokens: int
    c: float
    t_k: float
    dead_relu: float
    """Follows from `gamma_unit`, as does `dead_total` (`saelib.theory.closed_forms.Prediction`)."""
    dead_total: float
    dead_total_paper: float | None
    """The paper's prediction: its form, from its gamma (after LayerNorm). None if that is not defined."""
    site: Site = "residual"


def save_predictions(rows: Sequence[LayerPrediction], path: Path, key: str) -> None:
    """Publishes predictions as JSON; `key` says what they were made from."""
    write_result(path, key, {"rows": [asdict(row) for row in rows]})


def load_predictions(path: Path) -> tuple[LayerPrediction, ...]:
    """Reads predictions. Raises `UserError` if the file is missing or holds something else; it names the field."""
    return read_result(_Predictions, path).rows


@dataclass(frozen=True)
class _Predictions:
    """`theory/predictions.json`."""

    rows: tuple[LayerPrediction, ...]
