"""Compiled functions on disk, which numba keeps: nothing that other code left there is read."""

from typing import Any


def compiled_from(dispatcher: Any, code: str) -> Any:
    """Makes a numba function with `cache=True` read from disk only what was compiled from the same code.

    numba reads the whole index of a function's cache before it compares dates. Where a class has gone or was renamed
    since, as after an update of saelib, reading fails. It compares its own version first, so the code joins that.

    Args:
        dispatcher: What `numba.njit(cache=True)` made of a function.
        code: A digest of all code that is compiled into it.
    """
    file = dispatcher._cache._cache_file
    file._version = f"{file._version} {code}"
    file._source_stamp = code
    return dispatcher
