"""Shared by the scripts of this folder, each of which runs where its library is installed and saelib is not.

FOLDER holds x.npy and exported/CASE. Outputs of what was loaded from there go to loaded/CASE.npz; SAEs that the library
makes itself go to made/CASE, and their outputs to made/CASE.npz.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

Outputs = tuple[torch.Tensor, torch.Tensor]
"""Computes dense codes [tokens, d_sae] and reconstructions [tokens, d_in]."""


def serve(
    load: Callable[[Path, torch.Tensor], Outputs], make: Callable[[Path, torch.Tensor], dict[str, Outputs]]
) -> None:
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    with torch.no_grad():
        x = torch.from_numpy(np.load(folder / "x.npy"))
        for case in sorted((folder / "exported").iterdir()):
            save(folder / "loaded" / f"{case.name}.npz", load(case, x))
        for name, outputs in make(folder / "made", x).items():
            save(folder / "made" / f"{name}.npz", outputs)


def save(path: Path, outputs: Outputs) -> None:
    path.parent.mkdir(exist_ok=True)
    codes, x_hat = outputs
    np.savez(path, codes=codes.float().numpy(), x_hat=x_hat.float().numpy())


def fill(module: torch.nn.Module, x: torch.Tensor) -> None:
    """Draws distinct weights, with biases of the size of `x`, so that codes are often above 0."""
    for name, value in module.named_parameters():
        value.data = torch.randn(value.shape) / 5
        if value.shape == x.shape[1:]:
            value.data += x.mean(0)
        if name == "threshold":
            value.data.abs_()
