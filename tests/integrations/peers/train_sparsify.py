"""sparsify trains on the stores with its own trainer: as it is, from our start, and without its center.

Its trainer reads activations from a language model. Here the model's embedding is the store, one row per token number,
and the layer that is trained on returns it.
"""

import tempfile
from collections.abc import Iterator

import torch
from common import BATCH, D_SAE, STEPS, K, Outcome, Paste, batches, dead, fvu, serve
from datasets import Dataset
from sparsify import SparseCoderConfig, TrainConfig, Trainer
from torch import Tensor, nn
from transformers import GPT2Config, GPT2LMHeadModel

from saelib.integrations.sparsify import log_death


class Same(nn.Module):
    """Stands in for a block: returns what it reads, as a block does."""

    def forward(self, hidden: Tensor, *_args: object, **_options: object) -> Tensor:
        return hidden


def model_of(x: Tensor) -> GPT2LMHeadModel:
    """A GPT-2 whose first block returns row t of `x` for token t."""
    width = x.shape[1]
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(x), n_positions=BATCH, n_embd=width, n_layer=1, n_head=1))
    model.transformer.wte.weight.data.copy_(x)
    model.transformer.wpe.weight.data.zero_()
    model.transformer.h[0] = Same()
    return model.eval()


def train(x: Tensor, paste: Paste) -> Iterator[Outcome]:
    numbers = torch.arange(len(x))[:, None].repeat(1, x.shape[1])
    order = [batch[:, 0].tolist() for batch, _ in zip(batches(numbers), range(STEPS), strict=False)]
    settings = TrainConfig(
        SparseCoderConfig(num_latents=D_SAE, k=K),
        batch_size=1,
        optimizer="adam",
        lr=3e-4,
        lr_warmup_steps=5,
        hookpoints=["h.0"],
        log_to_wandb=False,
        save_every=10**9,
        save_dir=tempfile.mkdtemp(),
    )
    trainer = Trainer(settings, Dataset.from_dict({"input_ids": order}).with_format("torch"), model_of(x))
    (coder,) = trainer.saes.values()
    paste(sae=coder)
    death, rows, seen = log_death(coder, window=len(x)), x[BATCH:], []

    def look(_module: nn.Module, _args: object, _output: object) -> None:
        seen.append(codes(coder, rows))
        hook.remove()

    hook = coder.register_forward_hook(look)
    trainer.fit()
    yield Outcome("topk", seen[0], codes(coder, rows), death.rows[-1], error(coder, rows))


@torch.no_grad()
def codes(coder: nn.Module, rows: Tensor) -> float:
    encoded = coder.encode(rows)
    return dead(torch.zeros_like(encoded.pre_acts).scatter(1, encoded.top_indices, encoded.top_acts))


@torch.no_grad()
def error(coder: nn.Module, rows: Tensor) -> float:
    return fvu(coder(rows).sae_out, rows)


def no_center(sae: nn.Module) -> None:
    """Puts b_dec back to 0 after the trainer has moved it to the mean of the first batch, at its first step."""

    def clear(module: nn.Module, _args: object) -> None:
        module.b_dec.data.zero_()
        hook.remove()

    hook = sae.register_forward_pre_hook(clear)


serve("sparsify", train, no_center)
