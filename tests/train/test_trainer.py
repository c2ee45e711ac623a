"""Fifty steps against a naive dense trainer; the flags and norms in between."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saelib.config import TrainConfig
from saelib.train.model import TopKSAE
from saelib.train.trainer import Trainer

Make = Callable[..., TopKSAE]
K, DEAD_AFTER, LR, VARIANCE = 2, 64, 1e-2, 11.0


def batches(steps: int = 50) -> list[Tensor]:
    generator = torch.Generator().manual_seed(9)
    # A mean of several sigmas leaves some latents dead, so that the auxiliary loss has work.
    mean = torch.full((7,), 3.0, dtype=torch.float64)
    return [mean + torch.randn(16, 7, generator=generator, dtype=torch.float64) for _ in range(steps)]


def naive_training(sae: TopKSAE, k_aux: int) -> dict[str, Tensor]:
    """The same training written the plain way: dense codes, autograd, one latent's age in a list."""
    W_enc, W_dec, b_enc, b_dec = (
        p.detach().clone().requires_grad_() for p in (sae.W_enc, sae.W_dec, sae.b_enc, sae.b_dec)
    )
    optimizer = torch.optim.Adam([W_enc, W_dec, b_enc, b_dec], lr=LR)
    age = [0] * len(b_enc)
    for x in batches():
        pre = (x - b_dec) @ W_enc + b_enc
        z = torch.zeros_like(pre).scatter(1, pre.topk(K).indices, 1.0) * pre.relu()
        x_hat = z @ W_dec + b_dec
        loss = ((x - x_hat) ** 2).sum(1).mean() / VARIANCE
        age = [0 if (z[:, i] > 0).any() else a + len(x) for i, a in enumerate(age)]
        dead = [i for i, a in enumerate(age) if a >= DEAD_AFTER]
        if k_aux and dead:
            e = (x - x_hat).detach()
            z_dead = pre[:, dead].relu()
            kept = torch.zeros_like(z_dead).scatter(1, z_dead.topk(min(k_aux, len(dead))).indices, 1.0)
            error = ((e - (z_dead * kept) @ W_dec[dead]) ** 2).sum()
            loss = loss + error / ((e - e.mean(0)) ** 2).sum() / 32
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            assert W_dec.grad is not None
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
            optimizer.step()
            W_dec /= W_dec.norm(dim=1, keepdim=True)
    return {"W_enc": W_enc, "W_dec": W_dec, "b_enc": b_enc, "b_dec": b_dec}


def make_trainer(sae: TopKSAE, auxk: bool, auxk_k: int | None = None) -> Trainer:
    config = TrainConfig(d_sae=20, k=K, auxk_k=auxk_k, dead_after_examples=DEAD_AFTER)
    return Trainer(sae, config, auxk=auxk, learning_rate=LR, variance=VARIANCE)


@pytest.mark.parametrize(
    ("auxk", "auxk_k", "k_aux"), [(False, None, 0), (True, 2, 2), (True, None, 7 // 2)], ids=["off", "2", "half d_in"]
)
def test_fifty_steps_equal_naive_dense_training(make_sae: Make, auxk: bool, auxk_k: int | None, k_aux: int):
    sae = make_sae(k=K)
    expected = naive_training(sae, k_aux)
    trainer = make_trainer(sae, auxk, auxk_k)
    flagged = 0
    for x in batches():
        trainer.step(x)
        flagged += int(trainer.flagged.sum())
    assert flagged > 0
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name].detach(), rtol=1e-8, atol=1e-8)


def test_decoder_rows_keep_unit_norm_and_their_gradient_is_tangent(make_sae: Make):
    sae = make_sae(k=K)
    trainer = make_trainer(sae, auxk=True)
    for x in batches(20):
        before = sae.W_dec.detach().clone()
        trainer.step(x)
        assert sae.W_dec.grad is not None
        torch.testing.assert_close((sae.W_dec.grad * before).sum(1), torch.zeros(20, dtype=torch.float64))
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20, dtype=torch.float64))


def test_a_latent_is_flagged_by_examples_and_a_selected_zero_is_not_firing(make_sae: Make):
    sae = make_sae(k=20)  # every latent is selected for every token
    with torch.no_grad():
        sae.W_enc.zero_()
        sae.b_enc.fill_(1.0)
        sae.b_enc[4] = 0.0
    trainer = make_trainer(sae, auxk=False)
    flags = []
    for _ in range(5):  # 16 examples a step, flagged at 64
        with torch.no_grad():
            sae.b_enc[4] = 0.0
        trainer.step(torch.zeros(16, 7, dtype=torch.float64))
        flags.append(trainer.flagged.nonzero().flatten().tolist())
    assert flags == [[], [], [], [4], [4]]
