"""Measure an SAE, whoever trained it, on any rows of its model's activations."""

import logging

from saelib.caveats import few_tokens_decide
from saelib.errors import UserError
from saelib.interchange.fold import fold_preprocess
from saelib.rows import Rows
from saelib.sae.file import SavedSAE
from saelib.train.evaluate import Evaluation, evaluate, rows_at_a_time
from saelib.train.space import Space

log = logging.getLogger(__name__)


def measure(saved: SavedSAE, rows: Rows, tokens: int | None = None) -> Evaluation:
    """Measure an SAE on the first `tokens` rows (None: on all), read block by block, as a training is at its end.

    Errors are those in the model's own activations, normalized by the variance of the first rows; each token's own FVU
    is about their geometric median. A warning says where a few massive tokens decide the variance explained.

    Raises:
        UserError: where the rows have another width than the SAE, are constant, or hold NaN or infinity.
    """
    available, d_in = rows.shape
    if d_in != saved.preprocess.d_in:
        raise UserError(f"{rows.name}: rows have {d_in} dimensions; the SAE reads {saved.preprocess.d_in}")
    if saved.preprocess.scale is None:
        # A space keeps no centre of its own where b_dec can hold it.
        saved = fold_preprocess(saved)
    space = Space(saved.preprocess, rows, "cpu")
    samples = space.samples(rows, min(tokens or available, available), rows_at_a_time(saved.sae.d_sae))
    (found,) = evaluate([saved.sae], samples, space)
    if not found.finite:
        raise UserError(f"{rows.name}: the rows hold NaN or infinity")
    if text := few_tokens_decide(found.variance_explained, found.token_fvu_median):
        log.warning("%s: %s", rows.name, text)
    return found
