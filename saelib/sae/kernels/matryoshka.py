"""Matryoshka SAEs of any size on a CPU: BatchTopK whose first latents reconstruct on their own, too."""

import itertools

import numpy as np
from numpy.typing import NDArray

from saelib.config.sae_architectures import MatryoshkaBatchTopK
from saelib.sae.kernels.batch_topk import BatchTopKTrainer
from saelib.sae.kernels.compiled import inner, kernel
from saelib.sae.kernels.forward import Codes, add_row, scale_row
from saelib.sae.kernels.gather import add_weighted_rows, dot
from saelib.sae.kernels.passes import BatchCodes, block_bounds
from saelib.sae.kernels.sums import WeightGradients, sum_entries
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings


class MatryoshkaTrainer(BatchTopKTrainer):
    """`BatchTopKTrainer` whose loss is the mean over nested SAEs.

    A level is the latents that one nested SAE has and the next smaller one has not. A latent takes part in the SAEs of
    its level and of all later ones, so the sum of their errors is its error.
    """

    def __init__(self, sae: SAE, settings: TrainerSettings) -> None:
        """See `TopKTrainer`; the variant's architecture is `matryoshka_batch_topk`."""
        super().__init__(sae, settings)
        architecture = settings.variant.architecture
        assert isinstance(architecture, MatryoshkaBatchTopK)
        self._widths = np.array(architecture.widths(self.d_sae))
        self._errors = np.zeros((len(self._widths), 0, len(self.parameters.b_dec)), np.float32)

    def _loss_scale(self, tokens: int) -> float:
        return super()._loss_scale(tokens) / len(self._widths)

    def _decode_main(self, main: BatchCodes) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        levels, tokens, width = len(self._widths), *main.error.shape
        if self._errors.shape[1] != tokens:
            self._errors = np.zeros((levels, tokens, width), np.float32)
        blocks, errors = block_bounds(tokens, self.d_sae), self._errors
        sums = np.empty((len(blocks), 2, width), np.float32)
        arrays = self._widths, self.parameters.latents.W_dec, main.codes, main.error, main.code_grads

        def decode(block: int, _: int) -> None:
            decode_nested(self._centered, *blocks[block], *arrays, errors, sums[block])

        self._workers.each(len(blocks), decode)
        of_all, of_whole = sums.sum(0, dtype=np.float64)
        return of_all, of_whole

    def _sum_main(self, main: BatchCodes) -> None:
        if self.variant.frozen == "features":
            return
        for level, (first, last) in enumerate(itertools.pairwise([0, *self._widths.tolist()])):
            entries = main.entries._replace(starts=main.entries.starts[first : last + 1])
            sums = WeightGradients(self._sums.W_dec[:, first:last], self._sums.W_enc[:, first:last])
            sum_entries(entries, self._errors[level], self._centered, sums, self._workers)


@kernel
def decode_nested(
    centered: NDArray[np.float32],
    start: int,
    stop: int,
    widths: NDArray[np.int64],
    W_dec: NDArray[np.float32],
    codes: Codes,
    whole_error: NDArray[np.float32],
    code_grads: NDArray[np.float32],
    errors: NDArray[np.float32],
    sums: NDArray[np.float32],
) -> None:
    """Errors of nested SAEs, of tokens `start` to `stop`.

    Args:
        centered: [tokens, width]; what the SAE reads less b_dec.
        start: First token.
        stop: The token behind the last one.
        widths: [levels]; numbers of latents of the nested SAEs, ascending.
        W_dec: [d_sae, width]
        codes: Those of these tokens, with latents in ascending order.
        whole_error: Written, [tokens, width]; the error of the largest SAE.
        code_grads: Written, [tokens, at least k]; <error of its level, W_dec row> of each selected latent.
        errors: Written, [levels, tokens, width]; the sum of the errors of this SAE and of all larger ones.
        sums: Written, [2, width]; the sums over these tokens of errors[0] and of whole_error.
    """
    sums[:] = 0
    levels, room = len(widths), codes.values.shape[1]
    bounds = np.zeros(levels + 1, np.int64)
    for token in range(start, stop):
        _find_levels(codes, token, widths, bounds)
        for level in range(levels):
            if level == 0:
                scale_row(centered[token], np.float32(-1), errors[0, token])
            else:
                scale_row(errors[level - 1, token], np.float32(1), errors[level, token])
            first, count = token * room + bounds[level], bounds[level + 1] - bounds[level]
            add_weighted_rows(errors[level], token, codes.indices, codes.values, first, count, W_dec)
        scale_row(errors[levels - 1, token], np.float32(1), whole_error[token])
        for level in range(levels - 2, -1, -1):
            add_row(errors[level + 1, token], errors[level, token])
        for level in range(levels):
            for q in range(bounds[level], bounds[level + 1]):
                code_grads[token, q] = dot(W_dec, codes.indices[token, q], errors[level], token)
        add_row(errors[0, token], sums[0])
        add_row(whole_error[token], sums[1])


@inner
def _find_levels(codes, token, widths, bounds):
    """bounds[level + 1] = number of the token's latents below widths[level]."""
    q = 0
    for level in range(len(widths)):
        while q < codes.counts[token] and codes.indices[token, q] < widths[level]:
            q += 1
        bounds[level + 1] = q
