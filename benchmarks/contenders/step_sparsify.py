"""A training step of sparsify: its coder, optimizer and the body of its training loop, for one layer."""

import torch
from schedulefree import ScheduleFreeWrapper
from sparsify.config import SparseCoderConfig
from sparsify.sign_sgd import SignSGD
from sparsify.sparse_coder import SparseCoder
from torch import Tensor

from benchmarks.contenders.worker import Setting, Step, autocast, raise_biases, serve


def make(setting: Setting) -> Step:
    config = SparseCoderConfig(num_latents=setting.d_sae, k=setting.k)
    coder = SparseCoder(setting.d_in, config, device=setting.device)
    raise_biases(coder.encoder.bias, setting)
    optimizer = ScheduleFreeWrapper(
        SignSGD(coder.parameters(), lr=5e-3 / (setting.d_sae / 2**14) ** 0.5), momentum=0.95
    )
    optimizer.train()
    tokens_since_fired = torch.zeros(setting.d_sae, dtype=torch.long, device=setting.device)
    declared = torch.arange(setting.d_sae, device=setting.device) < setting.dead

    def step(x: Tensor) -> None:
        coder.set_decoder_norm_to_unit_norm()
        with autocast(setting):
            variance = (x - x.mean(0)).pow(2).sum()
            out = coder(x=x, y=x, dead_mask=declared if setting.dead else None, total_variance=variance)
        fired = torch.zeros_like(declared)
        fired[out.latent_indices.flatten()] = True
        (out.fvu + out.auxk_loss / 32 if setting.dead else out.fvu).backward()
        coder.remove_gradient_parallel_to_decoder_directions()
        optimizer.step()
        optimizer.zero_grad()
        tokens_since_fired.add_(len(x))
        tokens_since_fired[fired] = 0

    return step


if __name__ == "__main__":
    serve(make)
