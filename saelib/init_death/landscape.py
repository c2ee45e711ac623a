"""Predicted death over sizes of the SAE: a table for every d_sae and k, at the price of one pass of probes."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from saelib.init_death.probed import ProbedDeath

D_SAE = (512, 2048, 8192, 32_768, 131_072)
"""Latents for which death is predicted, in addition to those that are asked for."""
K = (16, 32, 64, 128, 256)
"""Latents selected per token, in addition to those that are asked for."""

Grid = tuple[tuple[float | None, ...], ...]
"""[d_sae][k]; None where k is larger than d_sae."""


@dataclass(frozen=True)
class Landscape:
    """Predicted death of untrained TopK SAEs over d_sae and k; fractions of the latents in [0, 1]."""

    d_sae: tuple[int, ...]
    k: tuple[int, ...]
    dead_total: dict[str, Grid]
    """Preprocessing -> latents that are selected on no token."""
    standard_error: dict[str, Grid]
    """Preprocessing -> standard error of `dead_total`, by the number of probes: at most about 1.1 points."""

    def to_dict(self) -> dict[str, Any]:
        """Converts to JSON."""
        return asdict(self)


def predict_landscape(probed: Mapping[str, "ProbedDeath"], d_sae: int, k: int) -> Landscape:
    """Predicts death for the grid of `D_SAE` and `K`, extended by one pair.

    Args:
        probed: Preprocessing -> what probes saw under it.
        d_sae: Latents of the SAE that is planned.
        k: Latents that it selects per token.
    """
    sizes, ks = tuple(sorted({*D_SAE, d_sae})), tuple(sorted({*K, k}))
    estimates = {
        name: [[of.dead(size, one) if one <= size else None for one in ks] for size in sizes]
        for name, of in probed.items()
    }

    def grids(field: str) -> dict[str, Grid]:
        return {
            name: tuple(tuple(found and getattr(found, field) for found in row) for row in rows)
            for name, rows in estimates.items()
        }

    return Landscape(sizes, ks, grids("dead_total"), grids("se_total"))
