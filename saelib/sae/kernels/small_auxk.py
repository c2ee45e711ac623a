"""AuxK for small TopK SAEs: a second pass over the batch, in which dead latents fit what the living ones left over.

A dead latent fires for no token of the batch, so its place in the sums of the first pass is free.
"""

import numpy as np
from numpy.typing import NDArray

from saelib.sae.kernels.columns import TILE, Batch, TileBuffers, encode_tile
from saelib.sae.kernels.compiled import kernel
from saelib.sae.kernels.latents import Weights
from saelib.sae.kernels.small_pass import RUN, Reading, RunSums, decode_token, scatter_token


@kernel
def revive_runs(
    batch: Batch,
    first: int,
    last: int,
    reading: Reading,
    encoder: NDArray[np.float32],
    helpers: NDArray[np.int32],
    weights: Weights,
    errors: NDArray[np.float32],
    sums: RunSums,
    buffers: TileBuffers,
) -> None:
    """Adds the gradients of dead latents to the sums of runs `first` to `last`.

    Args:
        batch: The batch of the first pass.
        first: First run.
        last: The run behind the last one.
        reading: The way the SAE reads it.
        encoder: [helpers, d_in + 1]; the rows of the dead latents in what `fill_encoder` wrote.
        helpers: The dead latents.
        weights: Of all latents.
        errors: [tokens, width]; of the first pass. AuxK fits the opposite.
        sums: Written, at the helpers.
        buffers: Of this worker, for as many latents as there are helpers and the k of AuxK.
    """
    rows, tiles = batch
    width = rows.shape[1]
    indices, counts, token = buffers.codes.indices, buffers.codes.counts, buffers.token
    nothing, totals = np.zeros(width, np.float32), np.zeros((2, width), np.float32)
    for run in range(first, last):
        for start in range(run * RUN, min((run + 1) * RUN, len(rows)), TILE):
            tokens = min(TILE, len(rows) - start)
            encode_tile(tiles, start // TILE, tokens, encoder, buffers)
            for t in range(tokens):
                for q in range(counts[t]):
                    indices[t, q] = helpers[indices[t, q]]
                decode_token(errors, start + t, np.float32(-1), nothing, weights.W_dec, t, totals, buffers)
                for d in range(width):
                    token[0, d] = reading.scale * rows[start + t, d] + reading.center[d]
                scatter_token(run, t, sums, buffers)
