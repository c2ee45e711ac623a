"""Tensors of a file that `torch.save` wrote: a tensor, or dicts and lists of tensors. Other objects are refused."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from saelib.activations.formats.found import FLOATS, Found, choose, damaged
from saelib.errors import UserError

THROUGH_FLOAT32 = ("bfloat16", "float8_e4m3fn", "float8_e5m2")
"""Types that numpy lacks."""


def open_torch(path: Path, member: str) -> Found:
    """Maps a tensor of the file. Names of nested tensors are joined by '/'; entries of lists are named by number."""
    tensors = dict(_tensors(_load(path), ""))
    tensor = tensors[choose(tensors, member, path)].detach()
    kind = str(tensor.dtype).removeprefix("torch.")
    if str(tensor.layout) != "torch.strided" or tensor.is_quantized:
        kind = f"a {'quantized' if tensor.is_quantized else 'sparse'} tensor of {kind}"

    def read(start: int, stop: int) -> Any:
        values = tensor[start:stop]
        return (values.float() if kind in THROUGH_FLOAT32 else values).numpy()

    return Found(tuple(tensor.shape), kind, kind in (*FLOATS, *THROUGH_FLOAT32), read)


def _load(path: Path) -> Any:
    import pickle
    import warnings

    import torch

    with path.open("rb") as file:
        zipped = file.read(4) == b"PK\x03\x04"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # they are about torch's own internals
            # Files from before torch 1.6 are not zip files and cannot be mapped.
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except pickle.UnpicklingError as error:
        if "Unsupported global" not in str(error):
            raise damaged(path) from None
        raise UserError(
            f"{path}: holds Python objects beside tensors, which are not loaded because they can run code; save "
            f"only tensors, as in torch.save({{'acts': acts}}, '{path.name}')"
        ) from None
    except (RuntimeError, ValueError, EOFError, KeyError, IndexError, TypeError, AttributeError, AssertionError):
        raise damaged(path) from None


def _tensors(content: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yields every tensor inside, with its name; numbers and strings are skipped."""
    import torch

    if isinstance(content, torch.Tensor):
        yield name, content
    elif isinstance(content, dict | list | tuple):
        items = content.items() if isinstance(content, dict) else enumerate(content)
        for key, value in items:
            yield from _tensors(value, f"{name}/{key}" if name else str(key))
