"""Death at initialization, as measured on one layer, and its file."""

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from saelib.files.sealed import read_result, write_result
from saelib.init_death.landscape import Landscape


@dataclass(frozen=True)
class Rate:
    """A fraction of the latents in [0, 1], once for each seed."""

    per_seed: Annotated[tuple[float, ...], Field(min_length=1)]

    @property
    def mean(self) -> float:
        """Mean over seeds."""
        return statistics.fmean(self.per_seed)

    @property
    def sd(self) -> float:
        """Sample standard deviation over seeds; 0 for a single seed."""
        return statistics.stdev(self.per_seed) if len(self.per_seed) > 1 else 0.0

    def __repr__(self) -> str:
        """Shows the mean and its spread."""
        return f"Rate({self.mean:.1%}, sd {self.sd:.1%} over {len(self.per_seed)} dictionaries)"

    def to_dict(self) -> dict[str, Any]:
        """Converts to JSON."""
        return {"mean": self.mean, "sd": self.sd, "per_seed": list(self.per_seed)}


@dataclass(frozen=True)
class Death:
    """Dead latents under one preprocessing."""

    dead_relu: Rate
    """Latents that are positive on no token."""
    dead_topk_only: Rate
    """Latents that are positive on some token, but never among the k selected."""
    dead_total: Rate
    """Latents that are selected on no token: the sum of the two."""
    curve_relu: tuple[float, ...] = field(repr=False)
    """`dead_relu`, mean over seeds, after each number of tokens in `InitDeath.curve_tokens`."""
    curve_total: tuple[float, ...] = field(repr=False)
    """`dead_total`, mean over seeds, after the same numbers of tokens."""

    def to_dict(self) -> dict[str, Any]:
        """Converts to JSON."""
        rates = {name: getattr(self, name).to_dict() for name in RATES}
        return rates | {"curve_relu": list(self.curve_relu), "curve_total": list(self.curve_total)}


RATES = ("dead_relu", "dead_topk_only", "dead_total")


@dataclass(frozen=True)
class InitDeath:
    """Dead latents of randomly initialized TopK SAEs on one layer's tokens."""

    tokens: int
    d_in: int
    d_sae: int
    k: int
    seeds: tuple[int, ...]
    curve_tokens: tuple[int, ...]
    """1, 2, 4, … and `tokens`."""
    preprocessings: dict[str, Death]
    landscape: Landscape | None = None
    """Predicted death for other sizes of the SAE; the stage `init_death` adds it to what it counts."""
    key: str = field(default="", compare=False)
    """One hash over everything that a file was made from; empty for a measurement that was not read from a file."""

    def __getitem__(self, preprocessing: str) -> Death:
        """Gives the death under the preprocessing of this name."""
        return self.preprocessings[preprocessing]

    def __repr__(self) -> str:
        """Shows sizes and total death, not the curves."""
        dead = ", ".join(f"{name} {death.dead_total.mean:.1%}" for name, death in self.preprocessings.items())
        return f"InitDeath({self.tokens:,} tokens, d_sae={self.d_sae:,}, k={self.k}, {len(self.seeds)} seeds; {dead})"

    def to_dict(self) -> dict[str, Any]:
        """Converts to JSON; `load_result` reads it back."""
        return {
            "tokens": self.tokens,
            "d_in": self.d_in,
            "d_sae": self.d_sae,
            "k": self.k,
            "seeds": list(self.seeds),
            "curve_tokens": list(self.curve_tokens),
            "preprocessings": {name: death.to_dict() for name, death in self.preprocessings.items()},
            "landscape": self.landscape and self.landscape.to_dict(),
        }


def save_result(result: InitDeath, path: Path, key: str) -> None:
    """Publish a measurement as JSON; `key` says what it was made from."""
    write_result(path, key, result.to_dict())


def load_result(path: Path) -> InitDeath:
    """Read a measurement. Raises `UserError` if the file is missing or holds something else; it names the field."""
    return read_result(InitDeath, path)


def death_from_firsts(
    first_positive: NDArray[np.int32], first_selected: NDArray[np.int32], tokens: int, curve_tokens: tuple[int, ...]
) -> Death:
    """Compute rates from the first tokens at which each latent was positive and was selected: both [seeds, d_sae].

    After N tokens, a latent is dead if its first token is N or later.
    """
    relu, total = _dead_after(first_positive, tokens), _dead_after(first_selected, tokens)
    return Death(
        dead_relu=Rate(tuple(relu.tolist())),
        dead_topk_only=Rate(tuple((total - relu).tolist())),
        dead_total=Rate(tuple(total.tolist())),
        curve_relu=tuple(float(_dead_after(first_positive, n).mean()) for n in curve_tokens),
        curve_total=tuple(float(_dead_after(first_selected, n).mean()) for n in curve_tokens),
    )


def _dead_after(first: NDArray[np.int32], tokens: int) -> NDArray[np.float64]:
    return (first >= tokens).mean(axis=1)
