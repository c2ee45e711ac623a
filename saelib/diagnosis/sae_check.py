"""Finds what is wrong with an SAE: another layer, a normalization that is missing or done twice, dead latents."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from saelib.activations.rows import Rows, read_float32
from saelib.errors import UserError
from saelib.evaluation.measure import measure
from saelib.preprocessing.choose import percent
from saelib.sae.file import SavedSAE
from saelib.stats.layer_stats import LayerStats

TRIED_ROWS = 8192
"""Rows that other inputs are tried on, evenly spread."""
MEASURED_ROWS = 100_000
POOR = 0.9
"""Unexplained variance from which an SAE explains nothing worth the name."""
BETTER = 0.5
"""An input that leaves less than this share of the unexplained variance is what the SAE was trained on."""
SCALES = tuple(2.0 ** (step / 2) for step in range(-14, 15))


@dataclass(frozen=True)
class SAEFindings:
    """What was found out about a given SAE."""

    verdict: str
    findings: list[str]
    unexplained: float
    """Squared error over the variance of the rows, as the SAE is; 1 is what the mean alone reaches."""
    best_input: str | None
    """The change of its input under which it explains far more; None where there is none."""
    best_unexplained: float
    dead_relu: float
    dead_topk_only: float
    dead_total: float
    l0: float


def check_sae(saved: SavedSAE, rows: Rows, stats: LayerStats) -> SAEFindings:
    """Measures the SAE on the rows, and tries whether another scale or center of its input suits it better.

    Raises:
        UserError: Where the widths differ.
    """
    if saved.preprocess.d_in != stats.d_in:
        raise UserError(
            f"the SAE reads {saved.preprocess.d_in} dimensions, and {rows.name} has {stats.d_in}: another layer or "
            "another model"
        )
    found = measure(saved, rows, MEASURED_ROWS)
    x = _sample(rows)
    tried = {name: _unexplained(saved, x, change) for name, change in _changes(x, stats).items()}
    as_is = tried.pop(AS_IS)
    best = min(tried, key=lambda name: tried[name])
    helps = tried[best] < BETTER * as_is and tried[best] < POOR
    findings = _deaths(saved, found.dead_relu, found.dead_topk_only, found.dead_total)
    verdict = _verdict(as_is, best if helps else None, tried[best], found.dead_total)
    if helps:
        findings.insert(
            0, f"Unexplained variance is {as_is:.3g} as it is, and {tried[best]:.3g} with its input {best}."
        )
    else:
        findings.insert(0, f"Unexplained variance is {as_is:.3g} (the mean alone reaches 1); no other input helps.")
    return SAEFindings(
        verdict, findings, as_is, best if helps else None, tried[best],
        found.dead_relu, found.dead_topk_only, found.dead_total, found.l0,
    )  # fmt: skip


AS_IS = "as it is"
Change = tuple[Callable[[NDArray], NDArray], Callable[[NDArray, NDArray], NDArray]]
"""What is done to the rows first, and how a reconstruction is taken back: (x -> input), (output, x -> x_hat)."""


def _changes(x: NDArray[np.float32], stats: LayerStats) -> dict[str, Change]:
    """Inputs that people train on: scaled, at unit or sqrt(d) length, LayerNormed, centered, whitened by dimension."""
    width = stats.d_in
    length = float(np.linalg.norm(x, axis=1).mean())
    center, std = stats.arrays["center_median"], stats.arrays["std"]
    safe = np.where(std > 0, std, 1)
    norms = lambda rows: np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-30)  # noqa: E731
    changes: dict[str, Change] = {AS_IS: (lambda rows: rows, lambda out, _: out)}
    for scale in (*SCALES, np.sqrt(width) / length, 1 / length):
        if scale != 1:
            changes[f"times {scale:.3g}"] = (lambda rows, s=scale: rows * s, lambda out, _, s=scale: out / s)
    changes["at unit length, token by token"] = (lambda rows: rows / norms(rows), lambda out, rows: out * norms(rows))
    root = np.sqrt(width)
    changes["at length sqrt(d_in), token by token"] = (
        lambda rows: rows / norms(rows) * root,
        lambda out, rows: out * norms(rows) / root,
    )
    changes["LayerNormed, token by token"] = (_layer_normed, _undo_layer_norm)
    changes["minus the geometric median"] = (lambda rows: rows - center, lambda out, _: out + center)
    changes["minus the mean, over each dimension's standard deviation"] = (
        lambda rows: (rows - stats.arrays["mean"]) / safe,
        lambda out, _: out * safe + stats.arrays["mean"],
    )
    changes["plus its own center once more"] = (lambda rows: rows + center, lambda out, _: out - center)
    return changes


def _layer_normed(rows: NDArray) -> NDArray:
    return (rows - rows.mean(1, keepdims=True)) / np.sqrt(rows.var(1, keepdims=True) + 1e-5)


def _undo_layer_norm(out: NDArray, rows: NDArray) -> NDArray:
    return out * np.sqrt(rows.var(1, keepdims=True) + 1e-5) + rows.mean(1, keepdims=True)


def _sample(rows: Rows) -> NDArray[np.float32]:
    step = max(1, rows.shape[0] // TRIED_ROWS)
    blocks = range(0, rows.shape[0], rows.block_rows)
    return np.concatenate(
        [read_float32(rows, start, min(start + rows.block_rows, rows.shape[0]))[::step] for start in blocks]
    )[:TRIED_ROWS]


@torch.no_grad()
def _unexplained(saved: SavedSAE, x: NDArray[np.float32], change: Change) -> float:
    """Squared error over variance, both summed over tokens, in the model's own activations."""
    forward, back = change
    given = forward(x.astype(np.float64)).astype(np.float32)
    out = saved.sae(torch.from_numpy(saved.preprocess.apply(given))).numpy()
    x_hat = back(saved.preprocess.restore(out, given), x.astype(np.float64))
    error, spread = x - x_hat, x - x.mean(0, dtype=np.float64)
    return float(np.square(error).sum() / np.square(spread).sum())


def _verdict(as_is: float, best: str | None, then: float, dead: float) -> str:
    if best is not None:
        return f"it was trained on activations {best}: its error falls from {as_is:.3g} to {then:.3g} of the variance."
    if as_is >= POOR:
        return (
            f"it was not trained on this layer, or never learned: its error is {as_is:.3g} times the variance, and no "
            "scale or center of the input helps."
        )
    return f"it fits these activations (unexplained {as_is:.3g}), and {percent(dead)} of its latents are dead here."


def _deaths(saved: SavedSAE, relu: float, topk: float, total: float) -> list[str]:
    if total == 0:
        return ["None of its latents is dead on these rows."]
    sentence = f"{percent(total)} of its {saved.sae.d_sae:,} latents are dead on these rows: "
    return [f"{sentence}{percent(relu)} are never positive, {percent(topk)} are positive and never selected."]
