"""The losses that revive dead latents: what they fit, and whom they move."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from saelib.sae.autograd import losses
from saelib.sae.autograd.losses import auxk_loss, ghost_loss
from saelib.sae.model import SAE

Make = Callable[..., SAE]
DEAD = torch.arange(64) % 2 == 0


@pytest.fixture
def x(device: str) -> Tensor:
    return torch.randn(60, 7, generator=torch.Generator().manual_seed(5), dtype=torch.float64).to(device)


@pytest.fixture
def dead(device: str) -> Tensor:
    return DEAD.to(device)


def auxk(sae: SAE, x: Tensor, dead: Tensor, k_aux: int) -> Tensor:
    with torch.no_grad():
        hidden_pre, x_hat = sae.hidden_pre(x), sae(x)
    return auxk_loss(sae, x, x_hat, hidden_pre, dead, k_aux)


def ghost(sae: SAE, x: Tensor, dead: Tensor, mse: float = 0.7) -> Tensor:
    with torch.no_grad():
        hidden_pre, x_hat = sae.hidden_pre(x), sae(x)
    return ghost_loss(sae, x, x_hat, hidden_pre, dead, x.new_tensor(mse))


def auxk_by_token(sae: SAE, x: Tensor, x_hat: Tensor, dead: Tensor, k_aux: int) -> Tensor:
    """Token by token, latent by latent."""
    e = x - x_hat
    e_hat = torch.zeros_like(e)
    for t, token in enumerate(x):
        z = {int(i): float((token - sae.b_dec) @ sae.W_enc[:, i] + sae.b_enc[i]) for i in dead.nonzero()}
        for i in sorted(z, key=lambda i: -z[i])[:k_aux]:
            e_hat[t] += max(z[i], 0.0) * sae.W_dec[i]
    return ((e - e_hat) ** 2).sum() / ((e - e.mean(0)) ** 2).sum()


def moved(sae: SAE) -> list[list[bool]]:
    """Which latents have a gradient: encoder, decoder, encoder bias."""
    gradients = [sae.W_enc.grad, sae.W_dec.grad, sae.b_enc.grad]
    assert all(gradient is not None for gradient in gradients)
    W_enc, W_dec, b_enc = gradients
    return [W_enc.any(0).tolist(), W_dec.any(1).tolist(), (b_enc != 0).tolist()]  # type: ignore[union-attr]


@pytest.mark.parametrize("k_aux", [1, 4, 50])
def test_auxk_is_its_definition_and_holds_no_bias(make_sae: Make, device: str, x: Tensor, dead: Tensor, k_aux: int):
    sae = make_sae(device=device)
    with torch.no_grad():
        sae.b_dec += 50  # a large mean: the bias must not be taken for a part of the residual
        x = x + 50
        torch.testing.assert_close(auxk(sae, x, dead, k_aux), auxk_by_token(sae, x, sae(x), dead, k_aux))


def test_auxk_moves_only_dead_selected_latents_encoder_and_decoder(
    make_sae: Make, device: str, x: Tensor, dead: Tensor
):
    sae = make_sae(device=device)
    with torch.no_grad():
        sae.b_enc[4] = -100  # dead, and never positive: selected by no token
    auxk(sae, x, dead, 8).backward()
    expected = dead.clone()
    expected[4] = False
    assert moved(sae) == [expected.tolist()] * 3


def test_ghosts_move_the_dead_alone_even_where_they_are_never_positive(
    make_sae: Make, device: str, x: Tensor, dead: Tensor
):
    sae = make_sae(device=device)
    with torch.no_grad():
        sae.b_enc[4] = -20
    ghost(sae, x, dead).backward()
    assert moved(sae) == [dead.tolist()] * 3


@pytest.mark.parametrize("loss", [auxk_loss, ghost_loss])
def test_the_residual_is_a_constant(make_sae: Make, x: Tensor, dead: Tensor, device: str, loss: Callable):
    sae = make_sae(device=device)
    x_hat = sae(x).detach().requires_grad_()
    loss(sae, x, x_hat, sae.hidden_pre(x).detach(), dead, 3 if loss is auxk_loss else x.new_tensor(1.0)).backward()
    assert x_hat.grad is None


def test_auxk_gradients_agree_with_finite_differences(make_sae: Make, x: Tensor, dead: Tensor, device: str):
    sae = make_sae(device=device)
    with torch.no_grad():
        sae.b_enc[~dead] += 20  # the living alone are selected, whatever the dead do
    auxk(sae, x, dead, 4).backward()
    for parameter, place in ((sae.W_enc, (3, 6)), (sae.W_dec, (6, 2)), (sae.b_enc, (6,))):
        assert parameter.grad is not None
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter[place] += sign * 1e-6
                values.append(auxk(sae, x, dead, 4).item())
                parameter[place] -= sign * 1e-6
        assert parameter.grad[place].item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-4)


def test_the_ghost_loss_has_the_value_of_the_mse_and_survives_huge_pre_activations(
    make_sae: Make, device: str, x: Tensor, dead: Tensor
):
    sae = make_sae(device=device).float()
    with torch.no_grad():
        sae.b_enc[2] = 1e6
    loss = ghost(sae, x.float(), dead)
    loss.backward()
    assert loss.item() == pytest.approx(0.7, rel=1e-5)
    assert all(p.grad is None or bool(p.grad.isfinite().all()) for p in sae.parameters())


@pytest.mark.parametrize("loss", [auxk, ghost])
def test_nothing_moves_where_nothing_is_dead_or_left_over(make_sae: Make, device: str, x: Tensor, loss: Callable):
    sae = make_sae(device=device)
    living, dead = torch.zeros(64, dtype=torch.bool, device=device), torch.ones(64, dtype=torch.bool, device=device)
    pre = sae.hidden_pre(x).detach()
    exact = (
        auxk_loss(sae, x, x.clone(), pre, dead, 3)
        if loss is auxk
        else ghost_loss(sae, x, x.clone(), pre, dead, x.sum() * 0)
    )
    total = loss(sae, x, living, 3) + exact
    if total.requires_grad:
        total.backward()
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in sae.parameters())


@pytest.mark.parametrize("loss", [auxk, ghost])
def test_looking_at_all_latents_gives_what_looking_at_the_dead_gives(
    make_sae: Make, x: Tensor, dead: Tensor, device: str, loss: Callable, monkeypatch: pytest.MonkeyPatch
):
    # What a device does, to whom the number of the dead is not known.
    few, all_ = make_sae(device=device), make_sae(device=device)
    value = loss(few, x, dead, 4)
    value.backward()
    monkeypatch.setattr(losses, "_candidates", lambda dead: torch.arange(64, device=device))
    other = loss(all_, x, dead, 4)
    other.backward()
    torch.testing.assert_close(value, other)
    for a, b in zip(few.parameters(), all_.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)
