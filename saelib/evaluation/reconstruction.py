"""Measure SAEs on rows they were not trained on."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from saelib.evaluation.device_sums import DeviceError, DeviceTokenErrors
from saelib.evaluation.result import Evaluation
from saelib.evaluation.space import Sample, Scale, Space
from saelib.evaluation.sums import CONSTANT, squared_lengths
from saelib.sae.model import SAE

ERRORS = (
    *("mse", "normalized_mse", "variance_explained", "token_fvu_median", "token_fvu_mean"),
    *("mse_trained", "normalized_mse_trained", "variance_explained_trained"),
)
"""Fields of `Evaluation` that are sums of errors, in the order of `_Meter`'s sums."""
AT_A_TIME = 2**24
"""Pre-activations held at once."""


def rows_at_a_time(d_sae: int) -> int:
    """Rows to measure at once, which bounds the memory of dense pre-activations."""
    return max(1, min(2_048, AT_A_TIME // d_sae))


@np.errstate(invalid="ignore", over="ignore")  # what has diverged is measured too
@torch.no_grad()
def evaluate(saes: Sequence[SAE], samples: Iterable[Sample], space: Space) -> list[Evaluation]:
    """Measure each of `saes` over all of `samples`, which are read once."""
    meters = [_Meter(sae, space) for sae in saes]
    for sample in samples:
        for meter in meters:
            meter.add(sample)
    return _evaluations([meter.figures() for meter in meters])


def _evaluations(found: Sequence[dict[str, Any]]) -> list[Evaluation]:
    """Reads the figures that are tensors, all of them in one copy from their device."""
    tensors = [value.double() for figures in found for value in figures.values() if isinstance(value, Tensor)]
    numbers = iter(torch.stack(tensors).tolist() if tensors else [])

    def number(value: Any) -> Any:
        return next(numbers) if isinstance(value, Tensor) else None if value is None else float(value)

    return [Evaluation(**{name: number(value) for name, value in figures.items()}) for figures in found]


class _Meter:
    """Sums over the samples for one SAE."""

    def __init__(self, sae: SAE, space: Space) -> None:
        self.sae, self.space = sae, space
        self.positive = torch.zeros_like(sae.b_enc, dtype=torch.bool)
        self.fired = torch.zeros_like(self.positive)
        self.active = torch.zeros((), dtype=torch.float64, device=sae.b_enc.device)
        self.kth_activation = torch.zeros_like(self.active)
        self.trained = self._error(space.trained)
        self.judged = self.trained if space.same else self._error(space.judged)
        on_cpu = space.on_device is None
        center = self._vector(space.center)
        self.tokens: Any = _TokenErrors(center) if on_cpu else DeviceTokenErrors(center)

    def _error(self, scale: Scale) -> Any:
        return _Error(scale) if self.space.on_device is None else DeviceError(scale, self.space.device)

    def _vector(self, values: NDArray[np.float64]) -> Any:
        """The same values, where sums are made."""
        return values if self.space.on_device is None else torch.from_numpy(values).to(self.space.device)

    def _native(self, values: Tensor) -> Any:
        """The same values as the sums take them: numpy's on a CPU, where its sums are faster."""
        return values.cpu().numpy() if self.space.on_device is None else values

    def add(self, sample: Sample) -> None:
        hidden_pre = self.sae.hidden_pre(sample.x)
        self.positive |= self.sae.sizes(hidden_pre).amax(0) > 0
        selects = self.sae.architecture in ("topk", "abs_topk")
        x_hat = self._selected(hidden_pre) if selects else self._dense(hidden_pre)
        x_hat = self.sae.add_bypass(x_hat, sample.x)
        x, reconstruction = self._native(sample.x), self._native(x_hat)
        errors = self.trained.add(x, reconstruction)
        if sample.activations is not None:
            x: Any = sample.activations
            preprocess: Any = self.space.on_device or self.space.preprocess
            errors = self.judged.add(x, preprocess.restore(reconstruction, x))
        self.tokens.add(x, errors)

    def _selected(self, hidden_pre: Tensor) -> Tensor:
        """Reconstructions without a dense code, which would cost as much as the encoder."""
        values, indices = self.sae.select(hidden_pre)
        counts = torch.zeros_like(self.fired, dtype=torch.int32)
        self.fired |= counts.index_add_(0, indices.flatten(), (values != 0).flatten().int()) > 0
        self.active += (values != 0).sum()
        self.kth_activation += values.abs().amin(1).double().sum()
        return F.embedding_bag(indices, self.sae.W_dec, per_sample_weights=values, mode="sum") + self.sae.b_dec

    def _dense(self, hidden_pre: Tensor) -> Tensor:
        codes = self.sae.activate(hidden_pre)
        fires = codes > 0
        self.fired |= fires.any(0)
        self.active += fires.sum()
        smallest = codes.masked_fill(~fires, math.inf).amin(1)
        self.kth_activation += smallest.masked_fill(smallest == math.inf, 0).double().sum()
        return self.sae.decode(codes)

    def figures(self) -> dict[str, Any]:
        """The fields of `Evaluation`, as numbers or as tensors on the SAE's device."""
        errors = [*self.judged.figures(), *self.tokens.figures(), *self.trained.figures()]
        return dict(zip(ERRORS, errors, strict=True)) | {
            "l0": self.active / self.trained.tokens,
            "mean_kth_activation": self.kth_activation / self.trained.tokens,
            "dead_relu": _fraction(~self.positive),
            "dead_topk_only": _fraction(self.positive & ~self.fired),
            "dead_total": _fraction(~self.fired),
            **self._captures(),
        }

    def _captures(self) -> dict[str, Any]:
        """Shares of the mean that the bias and the latents have taken up."""
        if self.space.mean is None:
            return {"bias_capture": None, "bias_distance": None, "feature_capture": None}
        mean, bias = self._vector(self.space.mean), self._native(self.sae.b_dec.detach().double())
        by_latents = self.trained.mean_reconstruction - bias
        if self.sae.bypass_in is not None and self.sae.bypass_out is not None:
            down, up = (self._native(value.detach().double()) for value in (self.sae.bypass_in, self.sae.bypass_out))
            by_latents -= (self.trained.mean - bias) @ down @ up
        norm: Any = np.linalg.norm if self.space.on_device is None else torch.linalg.vector_norm
        return {
            "bias_capture": bias @ mean / (mean @ mean),
            "bias_distance": 1 - norm(bias - mean) / norm(mean),
            "feature_capture": by_latents @ mean / (mean @ mean),
        }


class _Error:
    """Squared error and total variance over tokens, summed in float64 about the training mean."""

    def __init__(self, scale: Scale) -> None:
        self.tokens = 0
        self._scale = scale
        self._error = self._squares = 0.0
        self._drift = np.zeros_like(scale.mean)
        self._reconstructed = np.zeros_like(scale.mean)

    def add(self, x: NDArray[np.floating], x_hat: NDArray[np.floating]) -> NDArray[np.float64]:
        """`x`, `x_hat`: [tokens, d]. Returns each token's squared error, [tokens]."""
        errors = squared_lengths(np.subtract(x, x_hat, dtype=np.float64))
        self._error += float(errors.sum())
        centered = x - self._scale.mean
        self._squares += float(np.vdot(centered, centered))
        self._drift += centered.sum(0)
        self._reconstructed += x_hat.sum(0, dtype=np.float64)
        self.tokens += len(x)
        return errors

    @property
    def mean(self) -> NDArray[np.float64]:
        return self._scale.mean + self._drift / self.tokens

    @property
    def mean_reconstruction(self) -> NDArray[np.float64]:
        return self._reconstructed / self.tokens

    def figures(self) -> tuple[float, float, float]:
        """mse, normalized mse, variance explained."""
        mse = self._error / self.tokens
        drift = self._drift / self.tokens
        mean_square = self._squares / self.tokens
        variance = mean_square - float(drift @ drift)
        explained = 1 - mse / variance if variance > CONSTANT * mean_square else math.nan
        return mse, mse / self._scale.variance, explained


class _TokenErrors:
    """Each token's squared error over its own squared distance to the center."""

    def __init__(self, center: NDArray[np.float64]) -> None:
        self._center = center
        self._fractions: list[NDArray[np.float32]] = []

    def add(self, x: NDArray[np.floating], errors: NDArray[np.float64]) -> None:
        """`x`: [tokens, d]; `errors`: [tokens]."""
        distances = squared_lengths(x - self._center)
        away = ~(distances == 0)  # a distance that is not a number stays, to be seen
        self._fractions.append((errors[away] / distances[away]).astype(np.float32))

    def figures(self) -> tuple[float, float]:
        """Median and mean."""
        fractions = np.concatenate(self._fractions)
        if len(fractions) == 0:
            return 0.0, 0.0
        return float(np.median(fractions)), float(fractions.mean(dtype=np.float64))


def _fraction(marked: Tensor) -> Tensor:
    return marked.double().mean()
