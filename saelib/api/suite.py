"""Reads the tables of a finished suite."""

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from saelib.errors import UserError

if TYPE_CHECKING:
    import polars as pl


class Suite:
    """The tables that the pipeline wrote, as polars data frames. `open_suite` makes it."""

    def __init__(self, results: Path) -> None:
        """Names the results folder; each table is read when it is first used."""
        self.results = results

    @cached_property
    def layers(self) -> "pl.DataFrame":
        """One row per layer: statistics, death at initialization, predictions, recommendation."""
        return self._table("layers")

    @cached_property
    def saes(self) -> "pl.DataFrame":
        """One row per trained SAE, at its best learning rate."""
        return self._table("saes")

    @cached_property
    def landscape(self) -> "pl.DataFrame":
        """A row for each layer, preprocessing, d_sae and k: predicted death at initialization, and its error.

        Columns: `model`, `layer`, `site`, `preprocessing`, `d_sae`, `k`, `dead_total` and `standard_error`, both
        fractions of the latents.
        """
        return self._table("landscape")

    @cached_property
    def spearman(self) -> "pl.DataFrame":
        """One row per rank correlation, with intervals."""
        return self._table("spearman")

    @cached_property
    def evaluation(self) -> "pl.DataFrame":
        """One row per evaluated SAE, trained or baseline (docs/evaluation.md). Needs `evaluation` in the config."""
        return self._table("evaluation")

    def experiment(self, name: str) -> "pl.DataFrame":
        """One row per record of an experiment of the lab: coordinates, means, 95 % intervals and predictions.

        `name` is its name in the config. Raises `UserError` if the results hold no such experiment.
        """
        return self._table(f"lab_{name}")

    def _table(self, name: str) -> "pl.DataFrame":
        import polars as pl

        # Correlations are published only as .csv.
        path = self.results / "tables" / (f"{name}.csv" if name == "spearman" else f"{name}.parquet")
        try:
            return pl.read_csv(path) if name == "spearman" else pl.read_parquet(path)
        except (OSError, pl.exceptions.PolarsError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path}: cannot be read ({reason}); run the suite again: snakemake --cores all") from None

    def __repr__(self) -> str:
        """Shows the folder and the sizes of the tables."""
        tables = self.results / "tables"
        experiments = len(list(tables.glob("lab_*.parquet")))
        if not (tables / "layers.parquet").exists():
            return f"Suite({str(self.results)!r}, {experiments:,} experiments)"
        return f"Suite({str(self.results)!r}, {len(self.layers):,} layers, {len(self.saes):,} SAEs)"


def open_suite(results: str | Path = "results") -> Suite:
    """Opens the tables of a suite that `snakemake` has run.

    Args:
        results: The folder that the config calls `results`.

    Raises:
        UserError: If the folder holds no tables.

    Example:
        >>> suite = saelib.open_suite(results)
        >>> suite.layers.columns[:2]
        ['model', 'layer']
    """
    folder = Path(results)
    if not (folder / "tables").is_dir():
        raise UserError(f"{folder}: holds no tables; name the 'results' folder of a suite that has run")
    return Suite(folder)
