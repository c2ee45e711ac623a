"""The auxiliary loss: what it fits, and whom it moves."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saelib.train.losses import auxk_loss
from saelib.train.model import TopKSAE

Make = Callable[..., TopKSAE]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(60, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64)


@pytest.fixture
def dead() -> Tensor:
    return torch.arange(20) % 2 == 0


def reference(sae: TopKSAE, x: Tensor, x_hat: Tensor, dead: Tensor, k_aux: int) -> Tensor:
    """Token by token, latent by latent."""
    e = x - x_hat
    e_hat = torch.zeros_like(e)
    for t, token in enumerate(x):
        z = {int(i): float((token - sae.b_dec) @ sae.W_enc[:, i] + sae.b_enc[i]) for i in dead.nonzero()}
        for i in sorted(z, key=lambda i: -z[i])[:k_aux]:
            e_hat[t] += max(z[i], 0.0) * sae.W_dec[i]
    return ((e - e_hat) ** 2).sum() / ((e - e.mean(0)) ** 2).sum()


@pytest.mark.parametrize("k_aux", [1, 4, 50])
def test_value_is_the_definition_and_holds_no_bias(make_sae: Make, x: Tensor, dead: Tensor, k_aux: int):
    sae = make_sae()
    with torch.no_grad():
        sae.b_dec += 50  # a large mean: the bias must not be taken for a part of the residual
        x = x + 50
        x_hat = sae.decode(*sae.encode(x)[:2])
        torch.testing.assert_close(auxk_loss(sae, x, x_hat, dead, k_aux), reference(sae, x, x_hat, dead, k_aux))


def test_moves_only_dead_selected_latents_encoder_and_decoder(make_sae: Make, x: Tensor, dead: Tensor):
    sae = make_sae()
    with torch.no_grad():
        sae.b_enc[4] = -100  # dead, and never positive: selected by no token
    auxk_loss(sae, x, sae.decode(*sae.encode(x)[:2]), dead, 2).backward()
    assert sae.W_enc.grad is not None
    assert sae.W_dec.grad is not None
    assert sae.b_enc.grad is not None
    expected = dead.clone()
    expected[4] = False
    for moved in (sae.W_enc.grad.any(0), sae.W_dec.grad.any(1), sae.b_enc.grad != 0):
        assert moved.tolist() == expected.tolist()


def test_the_residual_is_a_constant(make_sae: Make, x: Tensor, dead: Tensor):
    sae = make_sae()
    x_hat = sae.decode(*sae.encode(x)[:2]).detach().requires_grad_()
    auxk_loss(sae, x, x_hat, dead, 3).backward()
    assert x_hat.grad is None


def test_is_nothing_where_nothing_is_dead_or_left_over(make_sae: Make, x: Tensor, dead: Tensor):
    sae = make_sae()
    assert auxk_loss(sae, x, x + 1, torch.zeros(20, dtype=torch.bool), 3) == 0
    loss = auxk_loss(sae, x, x.clone(), dead, 3)  # 0 / 0 in the definition
    loss.backward()
    assert loss == 0
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in sae.parameters())
