"""One SAE in training: a step at a time."""

import torch
from torch import Tensor

from saelib.config import TrainConfig
from saelib.train.evaluate import fired_latents
from saelib.train.losses import auxk_loss, reconstruction_loss
from saelib.train.model import TopKSAE


class Trainer:
    """Minimises L = MSE / ||sigma||^2 (+ coefficient * AuxK) with Adam(0.9, 0.999) at a constant learning rate.

    The rows of W_dec keep unit norm: the gradient along them is removed before each step and the rows are
    normalised after it (paper, section 6).
    """

    def __init__(self, sae: TopKSAE, config: TrainConfig, *, auxk: bool, learning_rate: float, variance: float) -> None:
        """`variance`: ||sigma||^2 of the data, a constant, so that the learning rate means the same for every layer."""
        self.sae, self.config, self.auxk = sae, config, auxk
        self.learning_rate, self.variance = learning_rate, variance
        self.k_aux = config.auxk_k or sae.W_dec.shape[1] // 2
        self.optimizer = torch.optim.Adam(sae.parameters(), lr=learning_rate, betas=(0.9, 0.999), fused=True)
        self.examples = 0
        self.silent_for = torch.zeros_like(sae.b_enc, dtype=torch.int64)
        """[d_sae]; examples since each latent last fired."""

    @property
    def flagged(self) -> Tensor:
        """Latents that count as dead during training: boolean [d_sae]."""
        return self.silent_for >= self.config.dead_after_examples

    def step(self, x: Tensor) -> None:
        """One step of Adam on one batch [tokens, d_in]."""
        sae = self.sae
        values, indices, hidden_pre = sae.encode(x)
        x_hat = sae.decode(values, indices)
        self.examples += len(x)
        self.silent_for += len(x)
        self.silent_for.masked_fill_(fired_latents(values, indices, len(self.silent_for)), 0)
        loss = reconstruction_loss(x, x_hat, self.variance)
        if self.auxk and self.examples >= self.config.dead_after_examples:
            # A latent that is positive nowhere adds nothing, but its matrix products would cost as much.
            helpers = self.flagged & (hidden_pre > 0).any(0)
            loss = loss + self.config.auxk_coefficient * auxk_loss(sae, x, x_hat, helpers, self.k_aux)
        self.optimizer.zero_grad()
        loss.backward()
        sae.project_decoder_gradient()
        self.optimizer.step()
        sae.normalise_decoder()
