"""Training steps of saelib and the eager script in this process, and of other libraries in processes of their own."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from torch import Tensor

from benchmarks.contenders import step_eager, step_saelib
from benchmarks.contenders.worker import Setting, draw_batch
from benchmarks.gpu.card import Card, products_in
from benchmarks.gpu.clock import Pace
from benchmarks.peers import python_of
from benchmarks.training import Contender

MAKERS = {"saelib": step_saelib.make, "eager": step_eager.make}
MODULES = {"saelens": "sae_lens", "dictionary_learning": "dictionary_learning", "sparsify": "sparsify"}


def own_pace(card: Card, name: str, setting: Setting, repeats: int = 20, x: Tensor | None = None) -> Pace:
    """Times a step of `saelib` or `eager` on the batch `x`; without one, its mean is as long as its spread."""
    card.free()
    step: Callable[[Tensor], object] = MAKERS[name](setting)
    batch = draw_batch(setting) if x is None else x
    with products_in(setting.precision):
        return card.paced(lambda: step(batch), repeats)


def peer_pace(name: str, setting: Setting, repeats: int) -> Pace:
    """Times a step of another library. Raises `RuntimeError` with the last output of its process if that stops."""
    python = peer_python(name)
    command = [str(python), "-m", f"benchmarks.contenders.step_{name}"]
    with Contender(command, setting, {}) as contender:
        return Pace(**contender.steps(repeats))


def peer_python(name: str) -> Path | None:
    """Returns an interpreter with the library, from its own environment or else this one; None if there is none."""
    return python_of(name) or (Path(sys.executable) if find_spec(MODULES[name]) else None)
