"""The sparse step against dense autograd, and the laws of the model."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saelib.train.losses import auxk_loss, reconstruction_loss
from saelib.train.model import TopKSAE

Make = Callable[..., TopKSAE]


def data(tokens: int = 50, d_in: int = 7, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(tokens, d_in, generator=generator, dtype=torch.float64) + 2.0


def reconstruct(sae: TopKSAE, x: Tensor) -> Tensor:
    return sae.decode(*sae.encode(x)[:2])


def dense_reconstruct(sae: TopKSAE, x: Tensor) -> Tensor:
    """The definition: all latents, everything by autograd."""
    z = torch.relu((x - sae.b_dec) @ sae.W_enc + sae.b_enc)
    bar = z.topk(sae.k, dim=1).values[:, -1:]
    return torch.where(z >= bar, z, 0) @ sae.W_dec + sae.b_dec


def gradients(sae: TopKSAE, loss: Tensor) -> dict[str, Tensor]:
    sae.zero_grad()
    loss.backward()
    # A parameter that a loss does not reach has no gradient.
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in sae.named_parameters()}


@pytest.mark.parametrize("bias", [0.0, -4.0], ids=["plain", "fewer positive than k"])
def test_sparse_gradients_are_those_of_dense_autograd(make_sae: Make, bias: float):
    sae, x = make_sae(k=4), data()
    with torch.no_grad():
        sae.b_enc += bias
    sparse = gradients(sae, (reconstruct(sae, x) - x).square().sum())
    dense = gradients(sae, (dense_reconstruct(sae, x) - x).square().sum())
    assert all(bool(dense[name].any()) for name in dense)
    for name in dense:
        torch.testing.assert_close(sparse[name], dense[name], rtol=1e-12, atol=1e-12)


def test_a_latent_without_positive_pre_activations_gets_exactly_no_gradient(make_sae: Make):
    sae, x = make_sae(), data()
    with torch.no_grad():
        # Latent 5 looks away from every token (all lie near +2), and still comes among the k largest of some.
        sae.b_enc.fill_(-1e3)
        sae.b_enc[:3] = 0.5
        sae.W_enc[:, 5] = -0.01
        sae.b_enc[5] = -0.01
    assert (sae.hidden_pre(x)[:, 5] < 0).all()
    assert (sae.encode(x)[1] == 5).any()
    loss = reconstruction_loss(x, reconstruct(sae, x), 1.0)
    loss = loss + auxk_loss(sae, x, reconstruct(sae, x), torch.ones(20, dtype=torch.bool), 20)
    found = gradients(sae, loss)
    assert found["W_enc"].any()
    assert not found["W_enc"][:, 5].any()
    assert not found["W_dec"][5].any()
    assert found["b_enc"][5] == 0


def test_encoder_and_decoder_start_equal_but_apart():
    sae = TopKSAE(6, 12, 2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(sae.W_enc, sae.W_dec.T, rtol=0, atol=0)
    with torch.no_grad():
        sae.W_dec.zero_()
    assert sae.W_enc.abs().max() > 0


def test_initial_directions_are_uniform_on_the_sphere():
    # For a normalised Gaussian vector in d dimensions E w_j^2 = 1/d and E w_j^4 = 3/(d (d + 2)); a normalised
    # uniform vector has the same second moment and a fourth of about 1.8/d^2.
    d = 10
    W = TopKSAE(d, 20_000, 1, torch.Generator().manual_seed(0), dtype=torch.float64).W_dec.detach()
    torch.testing.assert_close(W.square().sum(1), torch.ones(20_000, dtype=torch.float64))
    assert W.pow(4).mean().item() == pytest.approx(3 / (d * (d + 2)), rel=0.02)


def test_initial_loss_knows_neither_rotation_nor_scale():
    sae, x = TopKSAE(7, 20, 3, torch.Generator().manual_seed(0), dtype=torch.float64), data()
    Q = torch.linalg.qr(data(7, 7))[0]
    turned = TopKSAE(7, 20, 3, torch.Generator(), dtype=torch.float64)
    with torch.no_grad():
        turned.W_enc.copy_(Q.T @ sae.W_enc)
        turned.W_dec.copy_(sae.W_dec @ Q)
    loss = reconstruction_loss(x, reconstruct(sae, x), 1.0)
    torch.testing.assert_close(reconstruction_loss(x @ Q, reconstruct(turned, x @ Q), 1.0), loss)
    torch.testing.assert_close(reconstruction_loss(9 * x, reconstruct(sae, 9 * x), 81.0), loss)


def test_a_centre_in_b_dec_is_a_shift_of_the_data(make_sae: Make):
    sae, x = make_sae(), data()
    shift = 1000 * data(1)[0]
    expected = reconstruct(sae, x) + shift
    with torch.no_grad():
        sae.b_dec += shift
    torch.testing.assert_close(reconstruct(sae, x + shift), expected)
