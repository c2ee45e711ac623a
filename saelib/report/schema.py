"""The fields of result files that the report reads."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from saelib.evaluation.caveats import AtEnd, about_rate, few_tokens_decide, rate_at_end


class Part(BaseModel):
    """The fields that the report reads; others may stand beside them."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False, extra="ignore")


class Result(Part):
    """A result file."""

    key: str


class LayerStats(Result):
    """`stats/{model}/layer_{i}.json`."""

    tokens: int
    d_in: int
    gamma: float | None
    gamma_raw: float | None
    gamma_unit: float | None
    norm_ratio: float | None
    effective_rank: float | None
    effective_rank_fraction: float | None
    excess_kurtosis: float | None
    warnings: tuple[str, ...] = ()


class Rate(Part):
    """A dead fraction over the seeds of a randomly initialized dictionary."""

    mean: float
    sd: float
    per_seed: Annotated[tuple[float, ...], Field(min_length=1)]


class PreprocessingDeath(Part):
    """Death at initialization under one preprocessing."""

    dead_relu: Rate
    dead_total: Rate


class InitDeath(Result):
    """`init_death/{model}/layer_{i}.json`."""

    preprocessings: dict[str, PreprocessingDeath]


class Prediction(Part):
    """A row of `theory/predictions.json`: of `gamma_unit`, but for `dead_total_paper`, which is of `gamma`."""

    model: str
    layer: int
    dead_relu: float
    dead_total: float
    dead_total_paper: float | None


class Predictions(Result):
    """`theory/predictions.json`."""

    rows: tuple[Prediction, ...]


class Run(Part):
    """A learning rate of a sweep; a run that diverged may lack its measures."""

    learning_rate: float
    status: Literal["ok", "diverged"]
    mse: float | None = None
    normalized_mse: float | None = None
    variance_explained: float | None = None
    token_fvu_median: float | None = None
    token_fvu_mean: float | None = None
    l0: float | None = None
    dead_relu: float | None = None
    dead_topk_only: float | None = None
    dead_total: float | None = None

    @property
    def few_tokens(self) -> str | None:
        """A sentence where a few tokens decide the variance explained."""
        if self.variance_explained is None or self.token_fvu_median is None:
            return None
        return few_tokens_decide(self.variance_explained, self.token_fvu_median)


class Option(Part):
    """A choice of a variant, by its name."""

    kind: str


class Options(Part):
    """The variant of a sweep, as it was trained."""

    preprocessing: Option
    architecture: Option
    dead_latents: Option


class Sweep(Result):
    """`train/{model}/layer_{i}/{variant}/sweep.json`."""

    d_in: int
    d_sae: int
    k: int
    steps: int
    options: Options
    preprocessing_reason: str | None
    """Why the preprocessing is this one, where the suite says `auto`."""
    backend: str
    """What computed the steps; it decides their last bits."""
    best_learning_rate: float | None
    runs: tuple[Run, ...]

    @property
    def best(self) -> Run | None:
        """The run at the best learning rate; None where every run diverged."""
        finished = [run for run in self.runs if run.status == "ok" and run.learning_rate == self.best_learning_rate]
        return finished[0] if finished else None

    @property
    def learning_rate_at_end(self) -> AtEnd | None:
        """Where the best learning rate lies among those tried; None where every run diverged."""
        if self.best_learning_rate is None:
            return None
        return rate_at_end(self.best_learning_rate, [run.learning_rate for run in self.runs])

    @property
    def caveats(self) -> list[str]:
        """Sentences on what to mind about the best run."""
        best = self.best
        found = (best.few_tokens, about_rate(best.learning_rate, self.learning_rate_at_end)) if best else ()
        return [sentence for sentence in found if sentence]
