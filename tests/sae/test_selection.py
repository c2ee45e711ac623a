"""Selections against sorting, and reconstructions from entries against dense ones."""

from collections.abc import Callable

import pytest
import torch

from saelib.config.training import TrainConfig, VariantConfig
from saelib.sae.autograd.forward import batch_topk_forward, topk_forward
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.model import SAE
from saelib.sae.products import GROUPS, largest
from saelib.sae.trainer import TrainerSettings

Make = Callable[..., SAE]


@pytest.mark.parametrize(("rows", "n", "k"), [(9, 256, 3), (9, 256, 8), (1, 4096, 100), (5, 257, 4), (5, 40, 40)])
def test_largest_is_the_head_of_a_sort_wherever_it_lies(rows: int, n: int, k: int):
    values = torch.randn(rows, n, generator=torch.Generator().manual_seed(n))
    values[0] = values[0].sort().values  # all of the largest side by side
    if n % GROUPS == 0:
        values[-1, :: n // GROUPS] += 100  # all of the largest in one group
    found, places = largest(values, k)
    assert torch.equal(found.sort(1).values, values.sort(1).values[:, -k:])
    assert torch.equal(values.gather(1, places), found)
    assert all(len(set(row.tolist())) == k for row in places)


@pytest.mark.parametrize("tokens", [16, 1300])  # more than a CPU looks through at a time
def test_topk_selects_for_each_token_and_batch_topk_for_all(make_sae: Make, tokens: int, device: str):
    x = torch.randn(tokens, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    x[0] *= 20  # loud: takes more than its share of a batch
    sae = make_sae(device=device)
    with torch.no_grad():
        pre = sae.hidden_pre(x)
        each = torch.where(pre >= pre.sort(1).values[:, -2:-1], pre, 0).relu()
        bar = pre.flatten().sort().values[-2 * tokens]
        together = torch.where(pre >= bar, pre, 0).relu()
        for codes, result in (
            (each, topk_forward(sae, x, "float32", keep=True)),
            (together, batch_topk_forward(make_like(sae), x, "float32")),
        ):
            torch.testing.assert_close(result.x_hat, codes @ sae.W_dec + sae.b_dec)
            assert torch.equal(result.fired, (codes > 0).any(0))
            assert torch.equal(result.positive, (pre > 0).any(0))
            torch.testing.assert_close(result.hidden_pre, pre)
    assert (together[0] > 0).sum() > 2
    assert topk_forward(sae, x, "float32", keep=False).hidden_pre is None


def make_like(sae: SAE) -> SAE:
    """The same weights as BatchTopK."""
    return SAE("batch_topk", dict(sae.named_parameters()), sae.k)


def test_one_token_at_a_time_is_encoded_with_the_bar_that_training_has_seen(make_sae: Make, batches: Callable):
    sae, xs = make_sae("batch_topk"), batches(40, mean=0.0)
    variant = VariantConfig.model_validate({"architecture": "batch_topk"})
    trainer = TorchTrainer(sae, TrainerSettings(TrainConfig(d_sae=64, k=2), variant, learning_rate=1e-9, variance=7.0))
    bars = []
    for x in xs:
        bars.append(sae.hidden_pre(x).flatten().sort().values[-2 * len(x)].item())
        trainer.step(x)
    average = bars[0]
    for bar in bars[1:]:
        average += 0.1 * (bar - average)
    assert sae.threshold.item() == pytest.approx(average, rel=1e-6)
    l0 = (sae.encode(torch.cat(xs)) > 0).double().sum(1).mean().item()
    assert l0 == pytest.approx(2, rel=0.1)


def test_the_bar_of_a_batch_with_too_few_positives_is_zero(make_sae: Make, batches: Callable):
    sae = make_sae("batch_topk")
    with torch.no_grad():
        sae.b_enc.fill_(-1e3)
    assert batch_topk_forward(sae, batches(1)[0], "float32").smallest == 0
