"""Routes for the parts of a TopK step: selecting, sorting, decoding, and summing by latent."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.gpu.card import Card
from benchmarks.gpu.report import Row
from saelib.sae.autograd.sparse import Entries
from saelib.sae.products import largest


def rows(card: Card) -> Iterator[Row]:
    """Milliseconds of each at the size of `steps`."""
    setting = card.setting()
    parts = _selecting(card, setting.batch_size, setting.d_sae, setting.k, setting.k_aux)
    parts |= _summing(card, setting.batch_size, setting.d_in, setting.d_sae, setting.k)
    for name, call in parts.items():
        yield Row(name, {"ms": card.median_ms(call)})


def _selecting(card: Card, tokens: int, d_sae: int, k: int, k_aux: int) -> dict[str, Callable[[], object]]:
    pre = torch.randn(tokens, d_sae, device=card.device)
    half = pre.bfloat16()
    return {
        f"topk, {k} of {d_sae:,}": lambda: pre.topk(k, dim=1, sorted=False),
        "the same in groups (`largest`)": lambda: largest(pre, k),
        "the same of bfloat16": lambda: half.topk(k, dim=1, sorted=False),
        f"topk, {k_aux + 1} (AuxK's bar)": lambda: pre.topk(k_aux + 1, dim=1, sorted=False),
        "largest of each column": lambda: pre.amax(0),
    }


def _summing(card: Card, tokens: int, d_in: int, d_sae: int, k: int) -> dict[str, Callable[[], object]]:
    device = card.device
    W, x = torch.randn(d_sae, d_in, device=device), torch.randn(tokens, d_in, device=device)
    latents, codes = torch.randint(0, d_sae, (tokens * k,), device=device), torch.rand(tokens * k, device=device)
    token = torch.arange(tokens, device=device).repeat_interleave(k)
    spread, few = (Entries(which, token, (tokens, d_sae)) for which in (latents, latents % k))
    short = latents.int()

    def by_latent(entries: Entries, values: Tensor) -> Callable[[], object]:
        _ = entries.by_latent  # sorted once, outside of what is timed
        return lambda: entries.sum_by_latent(codes, values)

    embedding_bag = torch.nn.functional.embedding_bag
    return {
        f"stable sort of {tokens * k:,}, int64": lambda: torch.sort(latents, stable=True),
        f"stable sort of {tokens * k:,}, int32": lambda: torch.sort(short, stable=True),
        "decode the selected": lambda: embedding_bag(latents, W, spread.starts, per_sample_weights=codes, mode="sum"),
        "sum by latent, all latents alike": by_latent(spread, x),
        f"sum by latent, {k} latents take all": by_latent(few, x),
        f"sum by latent of biases, {k} take all": by_latent(few, x[:, :1].contiguous()),
    }
