"""AbsTopK: what its latents can do that those of TopK cannot."""

from collections.abc import Callable

import torch

from saelib.sae.autograd.forward import topk_forward
from saelib.sae.autograd.losses import auxk_loss
from saelib.sae.model import SAE

Make = Callable[..., SAE]


def test_a_direction_turned_around_gives_the_same_reconstruction(make_sae: Make):
    sae, x = make_sae("abs_topk"), torch.randn(300, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with torch.no_grad():
        codes, x_hat = sae.encode(x), sae(x)
        for weights in (sae.W_enc.T, sae.W_dec, sae.b_enc):
            weights[::2] *= -1
        turned = sae.encode(x)
    torch.testing.assert_close(sae(x), x_hat)
    torch.testing.assert_close(turned[:, ::2], -codes[:, ::2])
    assert bool((codes < 0).any())
    assert bool((codes > 0).any())


def test_a_latent_that_is_negative_everywhere_lives_and_learns(make_sae: Make):
    x = 20 + torch.randn(50, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    sae = make_sae("abs_topk")
    with torch.no_grad():
        sae.W_enc[:, 3] = -1.0
        sae.b_enc[3] = 0.0
    result = topk_forward(sae, x, "float32", keep=False)
    result.x_hat.square().sum().backward()
    assert sae.W_enc.grad is not None
    assert bool(sae.hidden_pre(x)[:, 3].max() < 0)
    assert result.fired[3]
    assert result.positive[3]
    assert bool(sae.W_enc.grad[:, 3].any())


def test_auxk_selects_dead_latents_by_size_and_keeps_their_signs(make_sae: Make):
    sae, x = make_sae("abs_topk"), torch.randn(30, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    dead = torch.arange(64) % 2 == 0
    with torch.no_grad():
        pre, x_hat = sae.hidden_pre(x), sae(x)
        e, e_hat, selected = x - x_hat, torch.zeros_like(x), torch.zeros(64, dtype=torch.bool)
        for t in range(30):
            for i in sorted(dead.nonzero().flatten().tolist(), key=lambda i, t=t: -abs(pre[t, i]))[:4]:
                e_hat[t] += pre[t, i] * sae.W_dec[i]
                selected[i] = True
        expected = ((e - e_hat) ** 2).sum() / ((e - e.mean(0)) ** 2).sum()
    loss = auxk_loss(sae, x, x_hat, pre, dead, 4)
    torch.testing.assert_close(loss.detach(), expected)
    loss.backward()
    assert sae.W_enc.grad is not None
    assert sae.W_enc.grad.any(0).tolist() == selected.tolist()
