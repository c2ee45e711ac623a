"""Tasks over a fixed partition of the work, by any number of threads."""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor


class Workers:
    """Threads that take the next of a run of tasks whenever they are free.

    What a task computes depends on its number alone, so results do not depend on how many threads there are or which
    one did what; the worker's number is only for buffers. Kernels release the GIL.
    """

    def __init__(self, threads: int) -> None:
        """The caller waits, so `threads` are busy."""
        self.count = threads
        self._pool = ThreadPoolExecutor(threads, "saelib-kernel") if threads > 1 else None

    def each(self, tasks: int, do: Callable[[int, int], None]) -> None:
        """`do(task, worker)` for every task from 0 to `tasks`, `worker` below `count`."""
        numbers = iter(range(tasks))  # taking the next one is atomic

        def work(worker: int) -> None:
            for task in numbers:
                do(task, worker)

        if self._pool is None or tasks == 1:
            work(0)
        else:
            for _ in self._pool.map(work, range(self.count)):
                pass


@functools.cache
def shared_workers(threads: int) -> Workers:
    """The same threads for everyone who asks for so many."""
    return Workers(threads)


os.register_at_fork(after_in_child=shared_workers.cache_clear)  # threads do not survive a fork
