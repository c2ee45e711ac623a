"""Laws of the initial weights."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from saelib.config.training import TrainConfig, VariantConfig
from saelib.errors import UserError
from saelib.sae.initial_weights import initial_sae, set_firing_rate

Variant = Callable[..., VariantConfig]
CONFIG = TrainConfig(d_sae=5_000, k=4)
D = 10


def test_gaussian_rows_are_the_normalized_draws_of_their_seed(variant: Variant):
    sae = initial_sae(D, CONFIG, variant(), seed=3)
    draws = torch.randn(5_000, D, generator=torch.Generator().manual_seed(3))
    assert torch.equal(sae.W_dec, F.normalize(draws, dim=1))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert not sae.b_enc.any()
    assert not sae.b_dec.any()


@pytest.mark.parametrize(("rows", "fourth"), [("gaussian", 3 / (D * (D + 2))), ("uniform", 1.8 / D**2)])
def test_directions_have_the_moments_of_their_distribution(variant: Variant, rows: str, fourth: float):
    # E w_j^2 = 1/d either way. Uniform on the sphere, E w_j^4 = 3/(d (d + 2)); uniform in the cube, 1.8/d^2 nearly.
    W = initial_sae(D, CONFIG, variant(init={"rows": rows}), seed=0).W_dec.detach().double()
    torch.testing.assert_close(W.norm(dim=1), torch.ones(5_000, dtype=torch.float64), rtol=1e-6, atol=0)
    assert W.pow(4).mean().item() == pytest.approx(fourth, rel=0.04)
    assert abs(W.mean().item()) < 0.005


def test_a_tied_start_is_a_copy_and_a_free_one_is_drawn_apart(variant: Variant):
    tied, free = (initial_sae(D, CONFIG, variant(init={"tied": tied}), seed=0) for tied in (True, False))
    with torch.no_grad():
        tied.W_dec.zero_()
    assert tied.W_enc.abs().max() > 0
    cosines = (free.W_enc.T * free.W_dec).sum(1)
    assert cosines.std().item() == pytest.approx(D**-0.5, rel=0.05)


def test_memory_lies_latent_by_latent(variant: Variant):
    sae = initial_sae(D, CONFIG, variant(), seed=0)
    assert sae.W_enc.T.is_contiguous()
    assert sae.W_dec.is_contiguous()


@pytest.mark.parametrize("tied", [True, False])
def test_directions_stay_in_the_subspace_and_fill_it(variant: Variant, tied: bool):
    U = torch.linalg.qr(torch.randn(D, 3, generator=torch.Generator().manual_seed(1)))[0]
    sae = initial_sae(D, CONFIG, variant(init={"tied": tied}), seed=0, subspace=U)
    for W in (sae.W_enc.T, sae.W_dec):
        torch.testing.assert_close(W @ U @ U.T, W.detach(), rtol=0, atol=1e-6)
        spread = (W @ U).T @ (W @ U) / len(W)
        torch.testing.assert_close(spread, torch.eye(3) / 3, rtol=0, atol=0.02)


def test_each_architecture_has_its_own_parameters(variant: Variant):
    center = torch.arange(float(D), dtype=torch.float64)
    jump = initial_sae(
        D, CONFIG, variant(architecture={"kind": "jumprelu", "initial_threshold": 0.2}), seed=0, b_dec=center
    )
    assert torch.equal(jump.threshold, torch.full((5_000,), 0.2))
    assert torch.equal(jump.b_dec, center.float())
    batch = initial_sae(D, CONFIG, variant(architecture="batch_topk"), seed=0)
    assert batch.threshold.shape == ()
    assert "threshold" in batch.state_dict()
    assert [sae.k for sae in (jump, batch)] == [None, 4]


@pytest.mark.parametrize("rate", [0.01, 0.37])
def test_every_latent_fires_at_the_rate_asked_for(variant: Variant, rate: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("saelib.sae.initial_weights.BUFFER_VALUES", 64 * 1_000)  # several runs of latents
    x = 5 + torch.randn(1_000, D, generator=torch.Generator().manual_seed(1))
    sae = initial_sae(D, TrainConfig(d_sae=100, k=4), variant(), seed=0, b_dec=torch.ones(D))
    set_firing_rate(sae, x, rate)
    assert ((sae.hidden_pre(x) > 0).sum(0) == round(1_000 * rate)).all()


def test_a_rate_that_the_tokens_cannot_show_is_refused(variant: Variant):
    sae = initial_sae(D, TrainConfig(d_sae=100, k=4), variant(), seed=0)
    with pytest.raises(UserError, match="on 20 tokens"):
        set_firing_rate(sae, torch.randn(20, D), 0.01)
