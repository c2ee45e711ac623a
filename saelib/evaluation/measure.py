"""Measure an SAE, whoever trained it, on any rows of its model's activations."""

import logging
from typing import NamedTuple

from saelib.activations.open import open_rows
from saelib.activations.rows import Rows
from saelib.errors import UserError
from saelib.evaluation.caveats import few_tokens_decide
from saelib.evaluation.reconstruction import evaluate, rows_at_a_time
from saelib.evaluation.result import Evaluation
from saelib.evaluation.space import Space
from saelib.sae.file import SavedSAE
from saelib.sae.fold import fold_preprocess
from saelib.store.read import StoreRows

log = logging.getLogger(__name__)

NOTES = {
    "heldout": "held out: an SAE that was trained on this store has not seen them",
    "train": "training rows: an SAE that was trained on this store does better on them than on others (::heldout)",
    "all": "whether the SAE was trained on them cannot be known; if it was, it does better on them than on others",
}


class MeasuredRows(NamedTuple):
    """Rows to measure an SAE on, and whether it may have been trained on them."""

    rows: Rows
    name: str
    """The name, as `open_rows` takes it."""
    split: str
    """`heldout` or `train` of a store; `all` of any other file."""
    note: str
    """A sentence on whether an SAE may have been trained on them."""


def open_measured(file: str, fill_missing_chunks: bool = False) -> MeasuredRows:
    """Open `file` as `open_rows` does, but a store without a split at its held-out rows, not at its training rows."""
    rows, member = open_rows(file, fill_missing_chunks), file.partition("::")[2]
    if not isinstance(rows, StoreRows):
        return MeasuredRows(rows, file, "all", NOTES["all"])
    name = file if member else f"{file}::heldout"
    split = member or "heldout"
    return MeasuredRows(open_rows(name), name, split, NOTES[split])


def measure(saved: SavedSAE, rows: Rows, tokens: int | None = None) -> Evaluation:
    """Measure an SAE on the first `tokens` rows (None: on all), read block by block, as a training is at its end.

    Errors are those in the model's own activations, normalized by the variance of the first rows; each token's own FVU
    is about their geometric median. A warning is logged if a few massive tokens decide the variance explained.

    Raises:
        UserError: if the rows have another width than the SAE, are constant, or hold NaN or infinity.
    """
    available, d_in = rows.shape
    if d_in != saved.preprocess.d_in:
        raise UserError(f"{rows.name}: rows have {d_in} dimensions; the SAE reads {saved.preprocess.d_in}")
    if saved.preprocess.scale is None:
        # A space keeps no center of its own if b_dec can hold it.
        saved = fold_preprocess(saved)
    space = Space(saved.preprocess, rows, "cpu")
    samples = space.samples(rows, min(tokens or available, available), rows_at_a_time(saved.sae.d_sae))
    (found,) = evaluate([saved.sae], samples, space)
    if not found.finite:
        raise UserError(f"{rows.name}: the rows hold NaN or infinity")
    if text := few_tokens_decide(found.variance_explained, found.token_fvu_median):
        log.warning("%s: %s", rows.name, text)
    return found
