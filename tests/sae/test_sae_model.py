"""The model by itself: codes by their definition, and gradients where somebody asks for them."""

from collections.abc import Callable

import pytest
import torch

from saelib.sae.model import SAE

Make = Callable[..., SAE]
ARCHITECTURES = ["topk", "batch_topk", "abs_topk", "relu", {"kind": "jumprelu", "initial_threshold": 0.3}]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_codes_are_the_pre_activations_that_their_architecture_lets_through(make_sae: Make, architecture, device: str):
    sae = make_sae(architecture, device=device)
    if sae.architecture == "batch_topk":
        sae.threshold.fill_(0.5)
    x = torch.randn(40, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(device)
    for token, codes in zip(x, sae.encode(x), strict=True):
        pre = (token - sae.b_dec) @ sae.W_enc + sae.b_enc
        if sae.architecture == "abs_topk":
            kept = pre.abs() > pre.abs().sort().values[-3]
        else:
            bar = {"topk": pre.sort().values[-3], "batch_topk": 0.5, "relu": 0.0, "jumprelu": 0.3}[sae.architecture]
            kept = (pre > bar) & (pre > 0)
        torch.testing.assert_close(codes, torch.where(kept, pre, 0))
    torch.testing.assert_close(sae(x), sae.encode(x) @ sae.W_dec + sae.b_dec)


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=str)
def test_float32_products_are_the_same_with_and_without_a_gradient(make_sae: Make, architecture):
    # On a CPU they take different routes.
    sae = make_sae(architecture).float()
    x = torch.randn(40, 7, generator=torch.Generator().manual_seed(1))
    x_hat = sae(x)
    x_hat.square().sum().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for n, p in sae.named_parameters() if n != "threshold")
    with torch.no_grad():
        torch.testing.assert_close(sae(x), x_hat)
