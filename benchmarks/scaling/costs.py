"""Models of each stage's cost: the form of its growth is known, the coefficients are measured."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.scaling.fits import Model, Terms, fit_model
from benchmarks.scaling.sizes import Point, Sweep
from saelib.config import VariantConfig

Found = Sequence[tuple[Sweep, Sequence[Point]]]
CONSTANT = {"start": lambda _size: 1.0}
SECONDS: Mapping[str, Terms] = {
    "extract": CONSTANT
    | {
        "products": lambda size: size.parameters * size.tokens,
        "rows": lambda size: size.layers * size.d_in * size.tokens,
    },
    "store": CONSTANT | {"rows": lambda size: size.d_in * size.tokens},
    "stats": CONSTANT
    | {
        "medians": lambda size: size.d_in * size.tokens,
        "Gram matrices": lambda size: size.d_in**2 * size.tokens,
        "eigenvectors": lambda size: size.d_in**3,
    },
    "init_death": CONSTANT
    | {
        "product": lambda size: size.d_in * size.d_sae * size.tokens,
        "selection": lambda size: size.d_sae * size.tokens,
        "dictionary": lambda size: size.d_in * size.d_sae,
        "whitening": lambda size: size.d_in**2 * size.tokens,
    },
    "train": CONSTANT
    | {
        "step": lambda size: size.d_in * size.d_sae * size.tokens,
        "selected": lambda size: size.d_in * size.tokens,
        "selection": lambda size: size.d_sae * size.tokens,
    },
    "whitening": {"rows": lambda size: size.d_in * size.tokens, "product": lambda size: size.d_in**2 * size.tokens},
}
"""Terms of the CPU seconds of each stage."""
DISK: Mapping[str, Terms] = {
    "stats": CONSTANT | {"vectors": lambda size: size.d_in, "eigenvectors": lambda size: size.d_in**2},
    "init_death": CONSTANT,
    "train": CONSTANT | {"weights": lambda size: size.d_in * size.d_sae},
}
"""Terms of the bytes of each stage; those of stores are known exactly (`saelib.pipeline.needs`)."""


@dataclass(frozen=True)
class Costs:
    """Cost models by stage."""

    seconds: dict[str, Model]
    disk: dict[str, Model]


def measured_costs(found: Found) -> Costs:
    """Fits the models to all sweeps of each stage together."""

    def fit(stage: str, terms: Terms, cost: Callable[[Point], float]) -> Model:
        points = [point for sweep, of_sweep in found for point in of_sweep if sweep.stage == stage]
        return fit_model(terms, points, [cost(point) for point in points])

    return Costs(
        {stage: fit(stage, terms, lambda point: point.cpu_seconds) for stage, terms in SECONDS.items()},
        {stage: fit(stage, terms, lambda point: point.disk) for stage, terms in DISK.items()},
    )


def step_flops(variant: VariantConfig, d_in: int, d_sae: int, k: int, tokens: int) -> tuple[float, float]:
    """Returns the floating-point operations of a training step on a GPU, and the bytes of GPU memory that it moves.

    The step is that of `saelib.sae.autograd.trainer`. Every architecture needs the encoder's product and Adam on both
    matrices. TopK and BatchTopK add decoding and three gradients (codes, encoder, decoder) of selected entries alone.
    Other architectures, and AuxK and ghost gradients whatever the number of dead latents, add the same four as dense
    products. A step moves rows of selected entries, dense codes and their gradients, and for Adam parameters, gradients
    and moments.
    """
    dense, product = 3.0 * tokens * d_sae, 2.0 * tokens * d_in * d_sae
    flops, moved = product, dense + 18.0 * d_in * d_sae
    if variant.architecture.kind in ("topk", "batch_topk"):
        selected = 4.0 * tokens * k * d_in
        flops, moved = flops + 2 * selected, moved + selected
    if variant.architecture.kind in ("relu", "jumprelu") or variant.dead_latents.kind in ("auxk", "ghost_grads"):
        flops, moved = flops + 4 * product, moved + 3 * dense
    return flops, 4 * moved
