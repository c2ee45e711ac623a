"""Runs one contender in its own process: it reads a setting as JSON, then on each line a number of steps to time.

It does not need saelib, so it also runs in the environments of other libraries.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Setting:
    """The SAE that every contender trains, and its data."""

    d_in: int
    d_sae: int
    k: int
    batch_size: int
    threads: int
    dead: int
    """Number of dead latents. They never fire, because the biases of all others are raised (`raise_biases`), and are
    declared dead before each step, so AuxK runs on them. 0: no AuxK."""
    k_aux: int
    saes: int = 1
    """SAEs trained at once on the same batches; only saelib can train several."""
    path: str = "auto"
    """For saelib: `torch` turns its kernels off."""
    selection: str = "screened"
    """For saelib: `float32` computes the whole product in float32."""
    learning_rate: float = 3e-4
    batches: str = ""
    """A file of float32 [batches, batch_size, d_in]."""


Step = Callable[[Tensor], object]

PAUSE = 0.5
"""Seconds to wait before a turn, because the previous contender's threads keep spinning for a while."""


RAISED = 4.5
"""Three standard deviations of a pre-activation. Latents without it are often positive and never selected."""


@torch.no_grad()
def raise_biases(b_enc: Tensor, setting: Setting) -> None:
    """Raises the biases of all latents but the dead ones, so only those fire."""
    if setting.dead:
        b_enc[setting.dead :] += RAISED


def serve(make: Callable[[Setting], Step]) -> None:
    """Answers each line `n` on stdin with the duration of n steps, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # output of libraries must not mix with the answers
    setting = Setting(**json.loads(sys.argv[1]))
    torch.set_num_threads(setting.threads)
    batches = cycle(torch.from_numpy(np.load(setting.batches)).unbind())
    torch.manual_seed(0)
    step = make(setting)
    for line in sys.stdin:
        seconds = []
        _forget_peak()
        time.sleep(PAUSE)
        step(next(batches))  # not timed: the caches are still full of another contender's data
        for _ in range(int(line)):
            batch = next(batches)
            start = time.perf_counter()
            step(batch)
            seconds.append(time.perf_counter() - start)
        answer = {"seconds": seconds, "peak_mb": _peak_mb(), "label": getattr(step, "label", "")}
        print(json.dumps(answer), file=answers, flush=True)


def _forget_peak() -> None:
    """Restarts the measurement of peak memory, so building and compiling do not count."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def _peak_mb() -> float:
    """Returns the peak resident memory of this process, interpreter and libraries included."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:"))
