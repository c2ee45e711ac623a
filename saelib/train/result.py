"""The result of a sweep, as `sweep.json` holds it; this module reads it without torch."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from saelib.config import VariantConfig
from saelib.config.sites import Site
from saelib.evaluation.caveats import AtEnd, about_rate, few_tokens_decide, rate_at_end
from saelib.evaluation.result import Evaluation
from saelib.files.sealed import read_result


@dataclass(frozen=True, kw_only=True)
class MeasuredRun(Evaluation):
    """A learning rate whose SAE was measured, on the held-out rows that no rate was chosen on."""

    learning_rate: float
    choosing_token_fvu_median: float
    """`token_fvu_median` on the other held-out rows, by which the best rate is chosen."""
    status: Literal["ok"] = "ok"

    @property
    def few_tokens(self) -> str | None:
        """A sentence if a few tokens decide the variance explained."""
        return few_tokens_decide(self.variance_explained, self.token_fvu_median)


@dataclass(frozen=True)
class DivergedRun:
    """A learning rate at which training diverged, so that nothing was measured."""

    learning_rate: float
    status: Literal["diverged"] = "diverged"


@dataclass(frozen=True)
class SweepResult:
    """One variant on one layer at all learning rates. The file also holds every other setting that decided it."""

    key: str
    model: str
    layer: int
    variant: str
    d_in: int
    d_sae: int
    k: int
    steps: int
    options: VariantConfig
    """The variant as it was trained: `auto` is replaced by the preprocessing that was chosen."""
    preprocessing_reason: str | None
    """Reason for this preprocessing, if the suite says `auto`."""
    backend: str
    """The code that computed the steps; it decides their last bits."""
    best_learning_rate: float | None
    runs: tuple[Annotated[MeasuredRun | DivergedRun, Field(discriminator="status")], ...]
    site: Site = "residual"
    """Site of the layer."""

    @property
    def best(self) -> MeasuredRun | None:
        """The run at the best learning rate; None if every run diverged."""
        for run in self.runs:
            if isinstance(run, MeasuredRun) and run.learning_rate == self.best_learning_rate:
                return run
        return None

    @property
    def learning_rate_at_end(self) -> AtEnd | None:
        """Position of the best learning rate among those tried; None if every run diverged."""
        if self.best_learning_rate is None:
            return None
        return rate_at_end(self.best_learning_rate, [run.learning_rate for run in self.runs])

    @property
    def caveats(self) -> list[str]:
        """Sentences on what to mind about the best run."""
        best = self.best
        found = (best.few_tokens, about_rate(best.learning_rate, self.learning_rate_at_end)) if best else ()
        return [sentence for sentence in found if sentence]


def run_entry(run: MeasuredRun | DivergedRun) -> dict[str, Any]:
    """A run as an entry of `runs` in `sweep.json`."""
    return {"learning_rate": run.learning_rate, "status": run.status} | asdict(run)


def load_sweep(path: Path) -> SweepResult:
    """Reads a `sweep.json`. Raises `UserError` if it is missing or holds something else; it names the field."""
    return read_result(SweepResult, path)
