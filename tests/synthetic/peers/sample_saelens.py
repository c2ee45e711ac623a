"""SAELens loads a synthetic model that we wrote, samples from it, and scores the true features themselves."""

import sys
from pathlib import Path

import numpy as np
import torch
from sae_lens.synthetic import SyntheticModel
from sae_lens.synthetic.evals import mean_correlation_coefficient

BATCH = 2000


def main() -> None:
    folder, tokens = Path(sys.argv[1]), int(sys.argv[2])
    torch.manual_seed(0)
    model = SyntheticModel.load_from_disk(folder)
    sums: dict[str, torch.Tensor] = {}
    for _ in range(tokens // BATCH):
        x, codes = (part.double() for part in model.sample_with_features(BATCH))
        present = (codes > 0).double()
        batch = {
            "x": x.sum(0),
            "x2": (x**2).sum(0),
            "present": present.sum(0),
            "codes": codes.sum(0),
            "codes2": (codes**2).sum(0),
            "together": present[:, :40].T @ present[:, :40],
        }
        sums = {name: sums.get(name, 0) + value for name, value in batch.items()}
    truth = torch.from_numpy(np.load(folder / "features.npy"))
    mcc = mean_correlation_coefficient(truth, model.feature_dict.feature_vectors.detach())
    np.savez(folder / "theirs.npz", mcc=float(mcc), **{name: value.numpy() for name, value in sums.items()})


main()
