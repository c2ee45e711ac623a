"""Training finds the features that the data are made of (paper, figure 6 and appendix C)."""

import numpy as np
import torch

from saelib.config.synthetic import SyntheticConfig
from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.initial_weights import initial_sae
from saelib.sae.trainer import TrainerSettings
from saelib.synthetic import SyntheticData, make_data


def train(data: SyntheticData, x: torch.Tensor, b_dec: torch.Tensor | None, steps: int) -> float:
    """Gives the MMCS: of each true feature the largest cosine with a learned one, on average."""
    config = TrainConfig(d_sae=100, k=5, steps=steps)
    variant = VariantConfig.model_validate({"schedule": {"decay_from": 0.5}})
    sae = initial_sae(50, config, variant, seed=0, b_dec=b_dec)
    trainer = TorchTrainer(sae, TrainerSettings(config, variant, learning_rate=3e-3, variance=data.signal_norm**2))
    for step in range(steps):
        trainer.step(x[step % 400 * 256 :][:256])
    features = torch.from_numpy(data.features).float()
    return (features @ sae.W_dec.detach().T).amax(1).mean().item()


def test_centering_recovers_features_that_an_outlier_mean_hides():
    data = make_data(SyntheticConfig(gamma=40.0), seed=0)
    x = torch.from_numpy(data.sample(400 * 256, np.random.default_rng(1)))
    assert train(data, x, x[:5_000].median(0).values, 2_000) > 0.96
    assert train(data, x, None, 300) < 0.46
