"""How kernels are compiled: without the GIL, and kept on disk until any file of this package changes."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit

SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()
"""Digest of this package."""

inner = njit(nogil=True, error_model="numpy", fastmath={"contract"})
"""For functions that only kernels call: compiled into them."""
inner_sum = njit(nogil=True, error_model="numpy", fastmath={"contract", "reassoc", "nsz"})
"""The same for sums, whose terms may be added in another order (always the same), as vector instructions need."""


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """For functions that Python calls.

    numba drops what it cached when the function's own file changes, but the code compiled into it comes from several;
    so its stamp is replaced by the package's.
    """
    dispatcher: Any = njit(nogil=True, error_model="numpy", cache=True)(function)
    dispatcher._cache._cache_file._source_stamp = SOURCES
    return dispatcher
