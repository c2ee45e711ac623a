"""Copies between the host and a GPU that do not make the host wait."""

from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def to_device(values: NDArray[Any], device: str) -> "Tensor":
    """Copies an array to a device; on a CPU, the tensor shares the array's memory.

    A GPU copies from pinned memory, in the order of the work that it was given before. A copy from ordinary memory
    would wait until all of this work is done.
    """
    import torch

    tensor = torch.from_numpy(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.startswith("cuda") else tensor.to(device)
