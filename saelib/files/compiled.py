"""Keeps numba's on-disk cache from returning machine code that was compiled from other source code."""

from typing import Any


def compiled_from(dispatcher: Any, code: str) -> Any:
    """Makes a numba function with `cache=True` load only machine code that was compiled from the same source code.

    numba reads the whole index of a function's cache before it compares dates. Reading fails if a class in it was
    removed or renamed since, for example by an update of saelib. Only numba's version is compared earlier, so a digest
    of the code is added to the version.

    Args:
        dispatcher: The compiled function that `numba.njit(cache=True)` returned.
        code: A digest of all source code that is compiled into it.
    """
    file = dispatcher._cache._cache_file
    file._version = f"{file._version} {code}"
    file._source_stamp = code
    return dispatcher
