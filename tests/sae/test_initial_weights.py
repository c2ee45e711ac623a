"""Laws of the initial weights."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from saelib.config.training import TrainConfig, VariantConfig
from saelib.errors import UserError
from saelib.preprocessing.fit import whitening_directions
from saelib.sae.autograd.forward import batch_topk_forward
from saelib.sae.initial_weights import calibrate, initial_sae, set_firing_rate

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


def test_datapoint_rows_lie_between_a_token_and_the_random_direction(variant: Variant):
    config, center = TrainConfig(d_sae=200, k=4), 3 * torch.ones(D)
    tokens = 5 + torch.randn(200, D, generator=torch.Generator().manual_seed(2))
    random = initial_sae(D, config, variant(), seed=1, b_dec=center).W_dec.detach().double()
    of_tokens = F.normalize((tokens - center).double(), dim=1)
    for blend in (0.0, 0.8, 1.0):
        method = variant(init={"rows": {"kind": "datapoint", "blend": blend}})
        sae = initial_sae(D, config, method, seed=1, b_dec=center, tokens=tokens)
        expected = F.normalize(blend * of_tokens + (1 - blend) * random, dim=1)
        torch.testing.assert_close(sae.W_dec.detach().double(), expected, rtol=0, atol=1e-6)
        assert torch.equal(sae.W_enc, sae.W_dec.T)


def test_a_token_at_the_center_leaves_the_random_direction(variant: Variant):
    config, method = TrainConfig(d_sae=3, k=1), variant(init={"rows": "datapoint"})
    sae = initial_sae(D, config, method, seed=1, b_dec=torch.ones(D), tokens=torch.ones(3, D))
    torch.testing.assert_close(sae.W_dec, initial_sae(D, config, variant(), seed=1).W_dec)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_whitened_rows_point_along_the_whitened_sphere(variant: Variant, alpha: float):
    # sqrt(Sigma)^alpha w points along u, uniform on the sphere, whose moments are known.
    eigenvectors = np.linalg.qr(np.random.default_rng(0).standard_normal((D, D)))[0]
    eigenvalues = np.geomspace(100, 1e-2, D)
    columns = whitening_directions({"eigenvalues": eigenvalues, "eigenvectors": eigenvectors}, alpha)
    method = variant(init={"rows": {"kind": "whitened", "alpha": alpha}})
    W = initial_sae(D, CONFIG, method, seed=0, subspace=torch.from_numpy(columns)).W_dec.detach().double().numpy()
    np.testing.assert_allclose(np.linalg.norm(W, axis=1), 1, rtol=1e-6)
    u = W @ eigenvectors * eigenvalues ** (alpha / 2)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    np.testing.assert_allclose(u.T @ u / len(u), np.eye(D) / D, rtol=0, atol=0.01)
    assert np.mean(u**4) == pytest.approx(3 / (D * (D + 2)), rel=0.04)


def test_whitened_rows_leave_out_directions_without_variance():
    arrays = {"eigenvalues": np.array([4.0, 1.0, 0.0]), "eigenvectors": np.eye(3)}
    np.testing.assert_allclose(whitening_directions(arrays, 1.0), [[1, 0], [0, 2], [0, 0]])
    with pytest.raises(UserError, match=r"gpt2: init\.rows 'whitened' needs 'eigenvalues'"):
        whitening_directions({}, 0.5, "gpt2")


@pytest.mark.parametrize("architecture", ["topk", "batch_topk", "abs_topk", "relu"])
def test_a_calibrated_start_has_the_least_error_and_the_same_selection(variant: Variant, architecture: str):
    config, x = TrainConfig(d_sae=100, k=9), 5 + torch.randn(300, D, generator=torch.Generator().manual_seed(1))
    plain, scaled = (
        initial_sae(D, config, variant(architecture=architecture), seed=0, b_dec=torch.ones(D)) for _ in range(2)
    )
    calibrate(scaled, x)
    ratio = scaled.W_enc / plain.W_enc
    torch.testing.assert_close(ratio, ratio[0, 0].expand_as(ratio))
    with torch.no_grad():
        fits = [
            batch_topk_forward(sae, x, "float32").x_hat - 1 if architecture == "batch_topk" else sae(x) - 1
            for sae in (plain, scaled)
        ]
    torch.testing.assert_close(fits[1], ratio[0, 0] * fits[0])
    errors = [(x - 1 - factor * fits[1]).square().sum() for factor in (0.99, 1.0, 1.01)]
    assert errors[1] < min(errors[0], errors[2])


def test_a_start_where_nothing_fires_is_not_calibrated(variant: Variant):
    sae = initial_sae(D, TrainConfig(d_sae=100, k=4), variant(), seed=0)
    before = sae.W_enc.detach().clone()
    calibrate(sae, torch.zeros(5, D))
    assert torch.equal(sae.W_enc, before)


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
