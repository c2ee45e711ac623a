"""A fitted preprocessing on torch's device, for rows that lie there."""

import torch
from torch import Tensor

from saelib.preprocessing.transform import AT_CENTER, Preprocessing
from saelib.stats.layer_stats import LN_EPS


class DevicePreprocessing:
    """Computes what `Preprocessing` computes, on tensors of one device.

    Differences and token norms are float64 as there, and matrix products are exact float32 (if torch's switches say so,
    `saelib.sources.precision`). Results are equal to the last bit if the preprocessing only subtracts a center or
    scales dimensions. Otherwise sums are added in another order, so last bits may differ.
    """

    def __init__(self, preprocess: Preprocessing, device: str) -> None:
        """Copies the arrays of `preprocess` to the device."""
        self._token_norm = preprocess.token_norm
        self._center = torch.from_numpy(preprocess.center).to(device)
        self._scale = None if preprocess.scale is None else torch.from_numpy(preprocess.scale).to(device)
        inverse = preprocess.inverse
        self._inverse = None if inverse is None else torch.from_numpy(inverse).to(device)

    def apply(self, x: Tensor, offset: Tensor | None) -> Tensor:
        """Preprocesses `x + offset`: floating point [tokens, d_in] -> a new float32 tensor [tokens, d_out].

        `offset` is float32 [d_in], or None for zero; see `Preprocessing.apply`.
        """
        lengths = torch.linalg.vector_norm(x.double(), dim=1)
        center = self._center
        if self._token_norm == "none":
            center = center if offset is None else center - offset
            centered = x.double() - center
        else:
            whole = x.double() if offset is None else x.double() + offset
            shift, size = self._shift_and_size(whole)
            whole = _settled(whole - shift, lengths)
            divisor = torch.where(size > 0, size, 1)
            centered = torch.where(size > 0, whole / divisor, 0) - center
            lengths = lengths / divisor.squeeze(1)
        values = _settled(centered, lengths + torch.linalg.vector_norm(center)).float()
        if self._scale is None:
            return values
        return values * self._scale if self._scale.ndim == 1 else values @ self._scale

    def restore(self, x_hat: Tensor, x: Tensor) -> Tensor:
        """Maps outputs of `apply` back to activations, float64 [tokens, d_in]; see `Preprocessing.restore`.

        `x_hat` is [tokens, d_out]; `x` has the activations, float64 [tokens, d_in].
        """
        if self._inverse is not None:
            x_hat = x_hat * self._inverse if self._inverse.ndim == 1 else x_hat @ self._inverse
        restored = x_hat + self._center
        if self._token_norm != "none":
            shift, size = self._shift_and_size(x)
            restored = restored * size + shift
        return restored

    def _shift_and_size(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """A token norm's shift and size, [tokens, 1] each, of float64 [tokens, d_in]."""
        layer_norm = self._token_norm == "layernorm"
        shift = x.mean(1, keepdim=True) if layer_norm else torch.zeros_like(x[:, :1])
        variance = (x - shift).square().mean(1, keepdim=True)
        return shift, (variance + (LN_EPS if layer_norm else 0)).sqrt()


def _settled(difference: Tensor, subtracted: Tensor) -> Tensor:
    """Rows that are nothing but rounding become zeros: tiny compared with the lengths [tokens] that were subtracted."""
    left = torch.linalg.vector_norm(difference, dim=1)
    rounding = (left <= AT_CENTER * subtracted) & left.isfinite()
    return difference.masked_fill(rounding[:, None], 0)
