"""Compilation of kernels: without the GIL, and kept on disk until any file of this package changes."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

from saelib.files.compiled import compiled_from
from saelib.progress import announce_compiling

announce_compiling()
_files = sorted(Path(__file__).parent.rglob("*.py"))
SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in _files)).hexdigest()
"""Digest of this package."""

# All code is inlined. A call could be linked to any copy of the function in the process: the one compiled by itself, or
# that of whichever kernel came from the cache first. Each was optimized apart, and their last bits can differ.
_options: dict[str, Any] = {"nogil": True, "forceinline": True, "error_model": "numpy"}

inner = njit(**_options, fastmath={"contract"})
"""Decorator of functions that only kernels call: compiled into them."""
inner_sum = njit(**_options, fastmath={"contract", "reassoc", "nsz"})
"""The same for sums, whose terms may be added in another order (always the same), as vector instructions need."""


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile a function that Python calls.

    numba drops what it cached when the function's own file changes, but the code compiled into it comes from several:
    so the whole package decides.
    """
    return compiled_from(njit(**_options, cache=True)(function), SOURCES)
