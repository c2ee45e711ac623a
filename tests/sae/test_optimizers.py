"""Optimizers against torch's own and against their definitions."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor
from torch.nn import Parameter

from saelib.config.training import Adam, ScheduleConfig, SignSGD
from saelib.sae.autograd.optimizer import make_optimizer
from saelib.sae.schedule import rate_at

SHAPES = {"W_enc": (4, 6), "W_dec": (6, 4), "b_enc": (6,), "b_dec": (4,)}


def parameters(device: str) -> dict[str, Parameter]:
    """W_enc lies in memory latent by latent."""
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, shape in SHAPES.items():
        value = torch.randn(shape, generator=generator, dtype=torch.float64)
        found[name] = Parameter((value.T.contiguous().T if name == "W_enc" else value).to(device))
    return found


def set_gradients(p: dict[str, Parameter], step: int, silent: list[int]) -> None:
    """Random ones, with none for some latents."""
    generator = torch.Generator().manual_seed(step)
    for name, parameter in p.items():
        gradient = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        if name != "b_dec":
            latents = gradient.T if name == "W_enc" else gradient
            latents[silent] = 0
        parameter.grad = torch.empty_like(parameter).copy_(gradient)


@pytest.mark.parametrize("sparse", [False, True])
def test_adam_is_that_of_torch_where_every_latent_has_a_gradient(device: str, sparse: bool):
    p, q = parameters(device), parameters(device)
    ours = make_optimizer(p, Adam(beta1=0.8, beta2=0.95, epsilon=1e-3, sparse=sparse))
    theirs = torch.optim.Adam(q.values(), lr=1.0, betas=(0.8, 0.95), eps=1e-3)
    for step in range(1, 20):
        set_gradients(p, step, [])
        set_gradients(q, step, [])
        theirs.param_groups[0]["lr"] = 0.1 / step
        ours.step(step, 0.1 / step)
        theirs.step()
    for name in SHAPES:
        torch.testing.assert_close(p[name].detach(), q[name].detach(), rtol=1e-9, atol=1e-9)


def test_sparse_adam_leaves_latents_without_gradient_alone_and_dense_adam_does_not(device: str):
    for sparse in (True, False):
        p = parameters(device)
        optimizer = make_optimizer(p, Adam(sparse=sparse))
        set_gradients(p, 1, [])
        optimizer.step(1, 0.1)
        before = {name: value.detach().clone() for name, value in (p | optimizer.moments).items()}
        set_gradients(p, 2, [1, 4])
        optimizer.step(2, 0.1)
        for name, value in (p | optimizer.moments).items():
            same = by_latent(name, value.detach() == before[name])
            resting = [] if name.endswith("b_dec") or not sparse else [1, 4]
            assert same.nonzero().flatten().tolist() == resting, name


def test_sparse_adam_is_torchs_for_a_table_of_rows(device: str):
    p = {"W_dec": parameters(device)["W_dec"]}
    q = Parameter(p["W_dec"].detach().clone())
    ours, theirs = make_optimizer(p, Adam(sparse=True)), torch.optim.SparseAdam([q], lr=0.1)
    for step in range(1, 10):
        set_gradients(p, step, [step % 6, (step + 2) % 6])
        assert p["W_dec"].grad is not None
        q.grad = p["W_dec"].grad.to_sparse(1)
        ours.step(step, 0.1)
        theirs.step()
    # It adds epsilon before the bias correction, we do after it, as in Adam.
    torch.testing.assert_close(p["W_dec"].detach(), q.detach(), rtol=1e-5, atol=1e-6)


def by_latent(name: str, same: Tensor) -> Tensor:
    """True for latents whose values are all the same."""
    if same.ndim == 1:
        return same
    return same.all(0 if name.endswith("W_enc") else 1)


def test_sign_sgd_moves_exactly_the_rate(device: str):
    p = parameters(device)
    before = {name: value.detach().clone() for name, value in p.items()}
    set_gradients(p, 1, [2])
    optimizer = make_optimizer(p, SignSGD(kind="sign_sgd"))
    optimizer.step(1, 0.125)
    assert optimizer.moments == {}
    for name, parameter in p.items():
        assert parameter.grad is not None
        assert torch.equal(parameter.detach(), before[name] - 0.125 * parameter.grad.sign())
        assert by_latent(name, parameter == before[name]).nonzero().flatten().tolist() == (
            [] if name == "b_dec" else [2]
        )


def test_the_schedule_rises_stays_and_falls():
    rates = [rate_at(step, 100, 2.0, ScheduleConfig(warmup=0.1, decay_from=0.8)) for step in range(1, 101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9:80] == [2.0] * 71
    assert rates[80] < 2.0
    assert rates[-1] == pytest.approx(2.0 / 21)
    assert all(b - a == pytest.approx(rates[-1] - rates[-2]) for a, b in pairwise(rates[80:]))


def test_without_a_schedule_the_rate_is_constant():
    assert {rate_at(step, 7, 0.3, ScheduleConfig()) for step in range(1, 8)} == {0.3}
