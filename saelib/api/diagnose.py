"""Diagnoses activations: whether an SAE on them will have dead latents, why, and what should be done."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from saelib.api.activations import Source, open_activations

if TYPE_CHECKING:
    from saelib.activations.rows import Rows
    from saelib.api.sae import LoadedSAE
    from saelib.diagnosis.result import Diagnosis
    from saelib.init_death.probed import Architecture


def diagnose(
    activations: Source | Iterable[Any],
    d_sae: int = 8192,
    k: int = 64,
    *,
    tokens: int = 100_000,
    architecture: "Architecture" = "topk",
    sae: "LoadedSAE | str | Path | None" = None,
    dictionaries: int = 1,
    threads: int | None = None,
    device: str = "cpu",
    name: str = "activations",
) -> "Diagnosis":
    """Diagnoses a layer before an SAE is trained on it (or an SAE that came out dead).

    The result prints as one screen, `plot`s, shows itself as a card in a notebook, and holds the recommended
    preprocessing, fitted: `found.center` is where b_dec should start.

    Args:
        activations: Anything that `open_activations` takes (numpy, torch on any device, zarr, dask, h5py, a path), or
            an iterator of batches [n, d_in], which is read until there are `tokens` rows. Rows of one example should
            follow one another, so that intervals are right.
        d_sae: Latents of the SAE that is planned.
        k: Latents that fire for a token. For ReLU and JumpReLU it only sizes the table.
        tokens: The most rows to read; if there are more, runs of rows are taken evenly from all.
        architecture: `topk`, `batch_topk`, `relu` or `jumprelu`.
        sae: An SAE that exists, from `load_sae` or a path for it, to look for faults in.
        dictionaries: Random dictionaries to count dead latents with; time grows with it.
        threads: CPUs to use; all of them if None.
        device: A GPU as torch names it, such as "cuda", to collect the statistics and count on, or "auto": a GPU if
            there is one. See `compute_stats` and `measure_init_death` for how the results agree.
        name: The name of an array, a tensor or batches in messages.

    Raises:
        UserError: For impossible sizes, a device that is not there, and activations that are all the same, not finite,
            or not [tokens, d_in].

    Example:
        >>> found = saelib.diagnose(acts, d_sae=256, k=8)
        >>> found.recommendation, found.measured["center_median"].dead_relu
        ('mean_center', 0.0)
        >>> found.center.shape
        (32,)
    """
    from saelib.diagnosis.device import usable_device
    from saelib.diagnosis.diagnose import Question, diagnose_rows

    question = Question(d_sae, k, tokens, architecture, dictionaries)
    saved = None
    if sae is not None:
        from saelib.api.sae import LoadedSAE, load_sae

        saved = (sae if isinstance(sae, LoadedSAE) else load_sae(sae)).saved
    return diagnose_rows(_rows(activations, tokens, name), question, saved, threads, device=usable_device(device))


def _rows(activations: Any, tokens: int, name: str) -> "Rows":
    if isinstance(activations, Iterator):
        from saelib.diagnosis.sample import spool

        return spool(activations, tokens, name)
    return open_activations(activations, name).rows
