"""The passes over the tokens on a GPU: moments with Gram matrices, and steps of geometric medians."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from saelib.devices.copies import to_device
from saelib.devices.memory import usable_bytes
from saelib.stats.kernels import NORMALIZED, RAW, UNIT
from saelib.stats.medians import Pull
from saelib.stats.moments import Moments, Plan
from saelib.stats.slabs import SLAB_VALUES, Slabs
from saelib.store.kept import KeptRows

_FLOAT32_MAX = torch.finfo(torch.float32).max
_SHARE_OF_MEMORY = 0.5
"""Share of the usable memory that tokens may stay in; Gram matrices and the arithmetic on a slab need the rest."""
_SLABS_AT_ONCE = 12
"""Arrays in float64, as large as a slab, that a pass holds at the same time."""


def least_bytes(d_in: int) -> float:
    """Estimates the GPU memory that a pass takes without any tokens that stay there."""
    return 8.0 * (2 * d_in**2 + _SLABS_AT_ONCE * SLAB_VALUES)


class DeviceTokens:
    """The tokens of an array on a GPU, with the sums that one pass over them gives.

    Each slab is copied to the GPU once, as float32, and stays there for the next passes if there is room. Tokens that
    an extraction left on the GPU (`saelib.store.kept`) are not copied at all. All arithmetic is in float64: GPUs for
    data centers multiply it as fast as unrounded float32.
    """

    def __init__(self, slabs: Slabs, device: str, room: float | None = None) -> None:
        """Starts with nothing on the GPU.

        Args:
            slabs: The tokens.
            device: torch's name of the GPU.
            room: Bytes that tokens may stay in. None: half of what this process can fill of the GPU.
        """
        self._slabs, self._device = slabs, device
        self._room = _SHARE_OF_MEMORY * usable_bytes() if room is None else room
        self._kept: list[Tensor] = []
        self._origin = torch.from_numpy(slabs.origin).to(device, torch.float64)

    def moments(self, plan: Plan) -> Moments:
        """Collects the moments of all tokens in one pass."""
        d_in = len(plan.origin)
        pilots = torch.from_numpy(plan.pilots).to(self._device, torch.float64)
        sums, squares = pilots.new_zeros(6, d_in), pilots.new_zeros(2)
        gram = pilots.new_zeros(d_in, d_in)
        raw_gram = gram.clone() if plan.whitening else gram[:0, :0]
        norms: list[Tensor] = []
        for values in self._passed():
            x = values + self._origin
            square = x.square().sum(1)
            norm = torch.where(square > _FLOAT32_MAX, torch.inf, square.sqrt())
            norms.append(norm.float())
            unit = x * torch.where(norm > 0, 1 / norm, 0)[:, None] - pilots[UNIT]
            normalized = _layer_norm(x, plan.epsilon) - pilots[NORMALIZED]
            raw = values - pilots[RAW]
            powers = (raw, normalized, unit, raw**2, raw**3, raw**4)
            sums += torch.stack([power.sum(0) for power in powers])
            squares += torch.stack([normalized.square().sum(), unit.square().sum()])
            gram.addmm_(normalized.T, normalized)
            if plan.whitening:
                raw_gram.addmm_(raw.T, raw)
        moments = Moments(plan)
        moments.sums, moments.squares = sums.cpu().numpy(), squares.cpu().numpy()
        moments.gram, moments.raw_gram = gram.cpu().numpy(), raw_gram.cpu().numpy()
        moments.add_norms(torch.cat(norms).cpu().numpy(), 0)
        return moments

    def pull(self, center: NDArray[np.float64], epsilon: float | None) -> Pull:
        """Computes the sums of a Weiszfeld step from `center`; see `geometric_median`."""
        at = torch.from_numpy(center).to(self._device)
        pull, totals = torch.zeros_like(at), at.new_zeros(3)
        for values in self._passed():
            token = values.double() if epsilon is None else _layer_norm(values + self._origin, epsilon)
            differences = token - at
            distances = torch.linalg.vector_norm(differences, dim=1)
            inverse = torch.where(distances > 0, 1 / distances, 0)
            pull += inverse @ differences
            totals += torch.stack([inverse.sum(), distances.sum(), (distances == 0).sum()])
        done = Pull(self._slabs.origin.astype(np.float64), center, epsilon)
        done.pull, done.totals = pull.cpu().numpy(), totals.cpu().numpy()
        return done

    def _passed(self) -> Iterator[Tensor]:
        """Yields the values of each slab, float32 [rows, d_in], in order."""
        rows, scale = self._slabs.rows, self._slabs.scale
        for number, (start, stop) in enumerate(self._slabs.bounds()):
            if number < len(self._kept):
                yield self._kept[number]
                continue
            if isinstance(rows, KeptRows):
                yield rows.on_device(start, stop).to(self._device).float() * scale
                continue
            values = to_device(self._slabs.read(start, stop), self._device)
            size = values.numel() * values.element_size()
            if number == len(self._kept) and size <= self._room:
                self._kept.append(values)
                self._room -= size
            yield values


def _layer_norm(x: Tensor, epsilon: float) -> Tensor:
    centered = x - x.mean(1, keepdim=True)
    return centered / (centered.square().mean(1, keepdim=True) + epsilon).sqrt()
