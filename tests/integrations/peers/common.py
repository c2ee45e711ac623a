"""Shared by the scripts of this folder, each of which runs where its library and saelib are installed.

FOLDER holds the stores as NAME.npy. What the library made of each, with and without our start, is printed as JSON.
"""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from itertools import chain, cycle
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import saelib
from saelib.diagnosis.remedies import lines_for

D_SAE, K, STEPS, BATCH, DIAGNOSED = 256, 8, 240, 500, 8000


@dataclass
class Outcome:
    """One training."""

    architecture: str
    before: float
    """Fraction of latents that fire on no row of the store, before the first step that changes a weight."""
    after: float
    logged: dict[str, float]
    """The last row of the death log."""
    fvu: float
    """Squared error of the trained SAE over the rows' variance."""
    store: str = ""
    start: str = ""
    """`theirs`, `no center` or the remedy that the diagnosis recommended."""


Paste = Callable[..., None]
"""Runs the lines that a diagnosis prints, with the names that they expect. For a baseline it does nothing."""


def serve(library: str, train: Callable[[Tensor, Paste], Iterator[Outcome]], no_center: Paste | None = None) -> None:
    """Trains on every store of FOLDER as the library does it, and again after the lines that a diagnosis prints.

    If the library centers by itself, `no_center` turns that off, for one more training on the store `steady`.
    """
    torch.set_num_threads(1)
    outcomes = []
    for path in sorted(Path(sys.argv[1]).glob("*.npy")):
        x = np.load(path)
        found = saelib.diagnose(x[:DIAGNOSED], d_sae=D_SAE, k=K, threads=1)
        lines = lines_for(found, library)
        assert library in lines

        def paste(lines: str = lines, acts: np.ndarray = x[:DIAGNOSED], **names: object) -> None:
            exec(lines, {"acts": acts, **names})

        starts = {"theirs": _nothing, found.recommendation: paste}
        if no_center and path.stem == "steady":
            starts["no center"] = no_center
        for start, run in starts.items():
            for outcome in train(torch.from_numpy(x), run):
                outcomes.append(asdict(replace(outcome, store=path.stem, start=start)))
    print("\n" + json.dumps(outcomes))


def _nothing(**_names: object) -> None:
    pass


def batches(x: Tensor) -> Iterator[Tensor]:
    """The first batch, which may be unlike the rest, comes once; the others come again and again."""
    first, *rest = x.split(BATCH)
    return chain([first], cycle(rest))


@torch.no_grad()
def dead(codes: Tensor) -> float:
    """`codes` [tokens, d_sae], of every row."""
    return 1 - float((codes > 0).any(dim=0).float().mean())


@torch.no_grad()
def fvu(x_hat: Tensor, x: Tensor) -> float:
    return float((x_hat - x).pow(2).sum() / (x - x.mean(0)).pow(2).sum())
