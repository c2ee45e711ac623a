"""Tensors of a .safetensors file."""

from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from saelib.activations.formats.found import Found, choose, damaged

KINDS = {
    "F16": "float16", "F32": "float32", "F64": "float64",
    "BF16": "bfloat16", "F8_E4M3": "float8_e4m3", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
THROUGH_TORCH = ("BF16", "F8_E4M3", "F8_E5M2")
"""Types that numpy lacks; torch reads them and turns them into float32 without loss."""


def open_safetensors(path: Path, member: str) -> Found:
    """Opens a tensor, to be read slice by slice."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            name = choose(list(file.keys()), member, path)
            view = file.get_slice(name)
        dtype = view.get_dtype()
        if dtype in THROUGH_TORCH:
            with safe_open(path, framework="pt") as file:
                view = file.get_slice(name)
    except (SafetensorError, UnicodeDecodeError) as error:
        raise damaged(path) from error

    def read(start: int, stop: int) -> NDArray[Any]:
        values = view[start:stop]
        return values.float().numpy() if dtype in THROUGH_TORCH else values

    return Found(tuple(view.get_shape()), KINDS.get(dtype) or _name(dtype), dtype in KINDS, read)


def _name(dtype: str) -> str:
    """Returns the usual name of a type, such as 'int64' for 'I64'."""
    kind = {"I": "int", "U": "uint", "C": "complex"}.get(dtype[0])
    return f"{kind}{dtype[1:]}" if kind else dtype.lower()
