"""Writes tensors as safetensors and hashes the bytes on their way, so that the file need not be read again."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

PIECE = 2**26
"""Bytes that are hashed and written at a time."""


def save_hashed(tensors: Mapping[str, "Tensor"], file: Path) -> str:
    """Writes tensors of the CPU, without metadata, and returns the SHA-256 of the file.

    Raises:
        OSError: if it cannot be written.
    """
    import torch

    names = {
        torch.float64: "F64",
        torch.float32: "F32",
        torch.float16: "F16",
        torch.bfloat16: "BF16",
        torch.int64: "I64",
        torch.int32: "I32",
        torch.bool: "BOOL",
    }
    header, end = {}, 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    with file.open("wb") as stream:
        for part in (len(text).to_bytes(8, "little"), text):
            digest.update(part)
            stream.write(part)
        for tensor in tensors.values():
            data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data
            for start in range(0, len(data), PIECE):
                digest.update(data[start : start + PIECE])
                stream.write(data[start : start + PIECE])
    return digest.hexdigest()
