"""Finds the operations of torch for which the host would wait for a GPU, on any device."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
READ = (aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.is_nonzero.default)


class HostReads(TorchDispatchMode):
    """Counts, inside a `with` block, operations that read a value or whose shape depends on values.

    Copies to the host are not seen: on a CPU there are none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        masks = func in (aten.index.Tensor, aten.index_put_.default, aten.index_put.default) and any(
            index is not None and index.dtype == torch.bool for index in args[1]
        )
        if func in READ or masks:
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))
