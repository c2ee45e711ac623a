"""Measure an SAE, whoever trained it, on any rows of its model's activations."""

from saelib.errors import UserError
from saelib.interchange.fold import fold_preprocess
from saelib.rows import Rows
from saelib.sae.file import SavedSAE
from saelib.train.evaluate import Evaluation, evaluate, rows_at_a_time
from saelib.train.space import Space


def measure(saved: SavedSAE, rows: Rows, tokens: int | None = None) -> Evaluation:
    """Measure an SAE on the first `tokens` rows (None: on all), read block by block, as a training is at its end.

    Errors are those in the model's own activations, normalized by the variance of the first rows.

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
    return found
