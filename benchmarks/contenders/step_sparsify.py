"""A training step of sparsify: its coder, optimizer and the body of its training loop, for one layer."""

import torch
from schedulefree import ScheduleFreeWrapper
from sparsify.config import SparseCoderConfig
from sparsify.sign_sgd import SignSGD
from sparsify.sparse_coder import SparseCoder
from torch import Tensor
from worker import Setting, Step, raise_biases, serve


def make(setting: Setting) -> Step:
    coder = SparseCoder(setting.d_in, SparseCoderConfig(num_latents=setting.d_sae, k=setting.k))
    raise_biases(coder.encoder.bias, setting)
    optimizer = ScheduleFreeWrapper(
        SignSGD(coder.parameters(), lr=5e-3 / (setting.d_sae / 2**14) ** 0.5), momentum=0.95
    )
    optimizer.train()
    tokens_since_fired = torch.zeros(setting.d_sae, dtype=torch.long)
    declared = torch.arange(setting.d_sae) < setting.dead

    def step(x: Tensor) -> None:
        coder.set_decoder_norm_to_unit_norm()
        variance = (x - x.mean(0)).pow(2).sum()
        out = coder(x=x, y=x, dead_mask=declared if setting.dead else None, total_variance=variance)
        fired = torch.zeros(setting.d_sae, dtype=torch.bool)
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
