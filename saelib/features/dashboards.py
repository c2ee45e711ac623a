"""Dashboards of latents in the layout of SAEDashboard's files: `batch-N.json`, which Neuronpedia's tools read too.

A dashboard has the examples in which the latent fires most, and random ones from equal steps of its peak activation.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saelib.features.passages import Passages
from saelib.features.scripts import rounded

if TYPE_CHECKING:
    from saelib.evaluation.seen import Seen

TOP = 20
"""Examples with the highest peaks."""
INTERVALS, PER_INTERVAL = 5, 5
"""Steps from 0 to the largest activation, and examples from each of them."""
REACH = 64
"""Tokens that are kept before the peak of an example, and from it on."""
BINS = 50
"""Bars of the histogram of activations."""
ALIGNED = 3
"""Dimensions of the layer that a latent's decoder direction points along most."""

NOT_MEASURED = (
    *(f"correlated_{other}_{value}" for other in ("neurons", "features") for value in ("indices", "l1", "pearson")),
    *("neg_str", "neg_values", "pos_str", "pos_values"),
    *("logits_hist_data_bar_heights", "logits_hist_data_bar_values", "decoder_weights_dist", "vector"),
)
"""Lists of a dashboard that stay empty: correlations, and effects on the model's logits and attention heads."""


def dashboards(
    seen: "Seen", sae: str, decoder: NDArray[np.floating] | None = None, seed: int = 0
) -> Iterator[dict[str, Any]]:
    """Yields the dashboard of each latent, by the names of SAEDashboard's class `NeuronpediaDashboardFeature`.

    Args:
        seen: The evaluation of the layer.
        sae: Name of the SAE in it.
        decoder: Its decoder directions [latents, d], for the dimensions that they are aligned with.
        seed: Decides the random examples.

    Raises:
        UserError: If the examples are no texts.
    """
    passages, codes = Passages(seen), seen.codes(sae)
    codes.sort_indices()
    tokens, latents = codes.shape
    rng = np.random.default_rng(seed)
    for latent in range(latents):
        own = slice(codes.indptr[latent], codes.indptr[latent + 1])
        rows, values = codes.indices[own], codes.data[own]
        yield {
            "feature_index": latent,
            **_alignment(None if decoder is None else decoder[latent]),
            **_histogram(values),
            "frac_nonzero": len(rows) / max(tokens, 1),
            "n_prompts_total": len(passages.counts),
            "n_tokens_in_prompt": 2 * REACH,
            "dataset": "",
            "activations": _activations(passages, rows, values, tokens, rng),
            **{name: [] for name in NOT_MEASURED},
        }


def write_saedashboard(
    folder: Path, model: str, block: int, sae_set: str, found: Sequence[dict[str, Any]], number: int
) -> None:
    """Writes `batch-NUMBER.json` with the dashboards of some latents.

    Args:
        folder: The folder of the file.
        model: The model's name.
        block: Number of the model's block, from 0.
        sae_set: Name of the set that the SAE belongs to.
        found: Dashboards of `dashboards`.
        number: Number of the file.
    """
    batch = {"model_id": model, "layer": block, "sae_set": sae_set, "sae_id_suffix": None, "features": list(found)}
    text = json.dumps(batch, separators=(",", ":"), allow_nan=False)
    (folder / f"batch-{number}.json").write_text(text, encoding="ascii")


def _alignment(direction: NDArray[np.floating] | None) -> dict[str, list[Any]]:
    """Finds the dimensions with the largest entries, and the share of each in the sum of absolute entries."""
    if direction is None:
        return {f"neuron_alignment_{name}": [] for name in ("indices", "values", "l1")}
    largest = np.argsort(-direction, kind="stable")[:ALIGNED]
    shares = np.abs(direction[largest]) / max(float(np.abs(direction).sum()), 1e-12)
    return {
        "neuron_alignment_indices": largest.tolist(),
        "neuron_alignment_values": rounded(direction[largest].tolist()),
        "neuron_alignment_l1": rounded(shares.tolist()),
    }


def _histogram(values: NDArray[np.floating]) -> dict[str, list[Any]]:
    """Counts activations that are not 0 in equal steps from the least to the largest; values are the steps' middles."""
    if not len(values):
        return {"freq_hist_data_bar_values": [], "freq_hist_data_bar_heights": []}
    counts, edges = np.histogram(values, BINS)
    return {
        "freq_hist_data_bar_values": rounded(((edges[:-1] + edges[1:]) / 2).tolist()),
        "freq_hist_data_bar_heights": counts.tolist(),
    }


def _activations(
    passages: Passages,
    rows: NDArray[np.integer],
    values: NDArray[np.floating],
    tokens: int,
    rng: np.random.Generator,
) -> list[dict[str, Any]]:
    """Chooses examples of a latent that fires in some tokens (`rows`, in order), and cuts them around their peaks."""
    if not len(rows):
        return []
    example = np.searchsorted(passages.first_token, rows, side="right") - 1
    starts = np.flatnonzero(np.diff(example, prepend=-1))
    bounds = np.append(starts, len(rows))
    peaks = np.maximum.reduceat(values, starts)
    largest = float(peaks.max())
    order = np.argsort(-peaks, kind="stable")

    def shown(run: int, group: dict[str, float]) -> dict[str, Any]:
        inside = slice(bounds[run], bounds[run + 1])
        number = int(example[bounds[run]])
        return group | _excerpt(passages, number, rows[inside] - passages.first_token[number], values[inside])

    top = {"bin_min": -1, "bin_max": largest, "bin_contains": -1}
    found = [shown(run, top) for run in order[:TOP]]
    edges = np.linspace(0, max(largest, 0), INTERVALS + 1)
    for low, high in zip(edges[-2::-1], edges[:0:-1], strict=True):
        inside = int(((values >= low) & (values <= high)).sum()) + (tokens - len(rows) if low == 0 else 0)
        group = {"bin_min": float(low), "bin_max": float(high), "bin_contains": inside / tokens}
        there = [run for run in order[TOP:] if low < peaks[run] <= high]
        found += [shown(run, group) for run in rng.choice(there, min(PER_INTERVAL, len(there)), replace=False)]
    return found


def _excerpt(
    passages: Passages, example: int, firing: NDArray[np.integer], values: NDArray[np.floating]
) -> dict[str, Any]:
    """Cuts an example around its peak, which is the strongest of the tokens (`firing`) in which the latent fires."""
    peak = int(firing[np.argmax(values)])
    start, stop = max(0, peak - REACH), min(int(passages.counts[example]), peak + REACH)
    dense = np.zeros(stop - start, np.float64)
    near = (firing >= start) & (firing < stop)
    dense[firing[near] - start] = values[near]
    return {
        "tokens": passages.tokens(example, start, stop),
        "values": rounded(dense.tolist()),
        "qualifying_token_index": peak - start,
    }
