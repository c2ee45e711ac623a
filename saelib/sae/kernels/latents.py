"""A step of the optimizer, latent by latent: gradients, moments, weights and their packed copy while in cache."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.compiled import inner, inner_sum, kernel
from saelib.sae.kernels.entries import CodesByLatent
from saelib.sae.kernels.gather import dot
from saelib.sae.kernels.gemm import pack_panel
from saelib.sae.kernels.integers import IntegerPanels, IntegerRows, round_panel
from saelib.sae.kernels.llvm.gather import SLICE
from saelib.sae.kernels.llvm.gemm import PANEL
from saelib.sae.kernels.rule import OptimizerStep
from saelib.sae.kernels.sums import WeightGradients

ROUNDING = np.float32(8 * np.finfo(np.float32).eps)
"""A row whose norm is as close to 1 counts as unit, so that a row that nothing moves keeps its bits."""


class Weights(NamedTuple):
    """Parameters of latents, or moments of their gradients."""

    W_enc: NDArray[np.float32]
    """[d_sae, width], a latent a row; zeros beyond d_in."""
    W_dec: NDArray[np.float32]
    """The same."""
    b_enc: NDArray[np.float32]
    """[at least d_sae]"""


class LossTerm(NamedTuple):
    """A squared error whose gradient some latents receive. No latent receives it from two terms."""

    entries: CodesByLatent
    scale: np.float32
    """Factor of half the squared error in the loss."""


class Packed(NamedTuple):
    """W_enc as the encoder reads it: one of the two, the other has no panels."""

    floats: NDArray[np.float32]
    """`gemm.pack`"""
    integers: IntegerPanels


class StepTotals(NamedTuple):
    """Sums over a run of panels, for the caller to add up in order."""

    input_gradient: NDArray[np.float32]
    """[width]; sum over latents of W_enc times the gradient of b_enc."""
    squared_gradient: NDArray[np.float64]
    """[1]; of both weight matrices, before projection."""


@kernel
def update_latents(
    first: int,
    last: int,
    weights: Weights,
    first_moments: Weights,
    second_moments: Weights,
    packed: Packed,
    sums: WeightGradients,
    main: LossTerm,
    dead_latents: LossTerm,
    untouched: NDArray[np.bool_],
    rule: OptimizerStep,
    gradients: NDArray[np.float32],
    rows: IntegerRows,
    totals: StepTotals,
) -> None:
    """Moves the latents of panels `first` to `last`, sets their decoder rows to norm 1 and packs their encoder rows.

    Args:
        first: First panel.
        last: The panel behind the last one.
        weights: Changed in place.
        first_moments: Adam's, changed in place.
        second_moments: Adam's, changed in place.
        packed: Changed in place.
        sums: Sums over the entries of both terms.
        main: The reconstruction of the batch.
        dead_latents: The term that AuxK adds.
        untouched: [d_sae]; latents to leave alone if they have no entries.
        rule: The optimizer.
        gradients: Buffer of this worker, [2, width].
        rows: The same, [PANEL, width].
        totals: Written.
    """
    totals.input_gradient[:] = 0
    totals.squared_gradient[0] = 0
    to_decoder, to_encoder = gradients[0], gradients[1]
    for panel in range(first, last):
        moved = False
        for j in range(panel * PANEL, min((panel + 1) * PANEL, len(untouched))):
            alive = main.entries.starts[j + 1] > main.entries.starts[j]
            part = main if alive else dead_latents
            if part.entries.starts[j + 1] == part.entries.starts[j] and untouched[j]:
                continue
            to_bias = _bias_gradient(part, j)
            add_scaled(totals.input_gradient, to_bias, weights.W_enc[j])
            if rule.moves_features:
                _row_gradients(part, j, sums, to_decoder, to_encoder)
                totals.squared_gradient[0] += dot(gradients, 0, gradients, 0) + dot(gradients, 1, gradients, 1)
                move_latent(j, weights, first_moments, second_moments, gradients, to_bias, rule)
                moved = True
        if moved and len(packed.floats) > 0:
            pack_panel(weights.W_enc, panel, packed.floats)
        elif moved:
            round_panel(weights.W_enc, panel, packed.integers, rows)


@inner_sum
def _bias_gradient(part, j):
    """Gradient of b_enc[j]."""
    entries = part.entries
    total = np.float32(0)
    for q in range(entries.starts[j], entries.starts[j + 1]):
        total += entries.code_grads[q]
    return total * part.scale


@inner
def _row_gradients(part, j, sums, to_decoder, to_encoder):
    """Writes the gradients of rows j of W_dec and W_enc."""
    starts, scale = part.entries.starts, part.scale
    if starts[j + 1] == starts[j]:
        to_decoder[:] = 0
        to_encoder[:] = 0
        return
    for i in range(len(sums.W_dec)):
        first = i * SLICE
        for d in range(min(SLICE, len(to_decoder) - first)):
            to_decoder[first + d] = scale * sums.W_dec[i, j, d]
            to_encoder[first + d] = scale * sums.W_enc[i, j, d]


@inner
def add_scaled(total, factor, row):
    """total += factor * row."""
    for d in range(len(row)):
        total[d] += factor * row[d]


@inner
def move_latent(j, weights, first_moments, second_moments, gradients, to_bias, rule):
    """Moves one latent by its gradients [W_dec row, W_enc row] and that of its bias."""
    m, v = first_moments, second_moments
    decoder = weights.W_dec[j]
    if rule.project:
        add_scaled(gradients[0], -dot(gradients, 0, weights.W_dec, j), decoder)
    if rule.sign:
        _sign_step(decoder, gradients[0], rule.rate)
        _sign_step(weights.W_enc[j], gradients[1], rule.rate)
        weights.b_enc[j] -= rule.rate * np.sign(to_bias)
    else:
        _adam_step(decoder, gradients[0], m.W_dec[j], v.W_dec[j], rule)
        _adam_step(weights.W_enc[j], gradients[1], m.W_enc[j], v.W_enc[j], rule)
        gradients[0, 0] = to_bias
        _adam_step(weights.b_enc[j : j + 1], gradients[0, :1], m.b_enc[j : j + 1], v.b_enc[j : j + 1], rule)
    norm = np.sqrt(dot(weights.W_dec, j, weights.W_dec, j))
    if abs(norm - np.float32(1)) > ROUNDING:
        for d in range(len(decoder)):
            decoder[d] /= norm


@inner
def _sign_step(parameters, gradient, rate):
    for d in range(len(parameters)):
        parameters[d] -= rate * np.sign(gradient[d])


@inner
def _adam_step(parameters, gradient, first_moment, second_moment, rule):
    for d in range(len(parameters)):
        g = gradient[d]
        m = rule.beta1 * first_moment[d] + rule.fresh1 * g
        v = rule.beta2 * second_moment[d] + rule.fresh2 * g * g
        first_moment[d] = m
        second_moment[d] = v
        parameters[d] -= rule.rate * m / (np.sqrt(v * rule.correction) + rule.epsilon)


@kernel
def update_vector(
    parameters: NDArray[np.float32],
    gradient: NDArray[np.float32],
    first_moment: NDArray[np.float32],
    second_moment: NDArray[np.float32],
    rule: OptimizerStep,
) -> None:
    """Moves one vector of parameters [n], such as b_dec."""
    if rule.sign:
        _sign_step(parameters, gradient, rule.rate)
    else:
        _adam_step(parameters, gradient, first_moment, second_moment, rule)
