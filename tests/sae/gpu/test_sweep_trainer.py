"""A sweep as one program, against the torch trainer in float64."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed (docs/training.md says how to run these tests)")

from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.choose import step_all
from saelib.sae.gpu.trainer import make_members
from saelib.sae.model import SAE
from saelib.sae.trainer import Trainer, TrainerSettings
from tests.sae.gpu.conftest import D_SAE

Batches = Callable[..., list[Tensor]]
Settings = Callable[..., list[TrainerSettings]]
Start = Callable[..., SAE]


def check(saes: list[SAE], settings: list[TrainerSettings], batches: list[Tensor], tolerance: float = 2e-3) -> None:
    """Parameters, counters and norms are those of float64; errors of parameters are relative to their movement."""
    exact: list[TorchTrainer] = [
        TorchTrainer(deepcopy(sae).double(), own) for sae, own in zip(saes, settings, strict=True)
    ]
    members: list[Trainer] = [make_members([sae], [own])[0] for sae, own in zip(saes, settings, strict=True)]
    for x in batches:
        step_all(members, x, threads=1)
        for member, other in zip(members, exact, strict=True):
            other.step(x.double())
            assert member.gradient_norms() == pytest.approx(other.gradient_norms(), rel=1e-3)
            assert torch.equal(member.tokens_since_fired, other.tokens_since_fired)
            assert torch.equal(member.tokens_since_positive, other.tokens_since_positive)
            assert member.examples == other.examples
    for member, other, sae in zip(members, exact, saes, strict=True):
        began, now = sae.state_dict(), member.sae.state_dict()
        for name, value in other.sae.state_dict().items():
            moved = (value - began[name]).norm()
            assert (now[name].double() - value).norm() <= tolerance * moved, name
    assert any(member.tokens_since_fired.any() for member in members)


VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "unprojected": {"project_decoder": False},
    "sparse adam": {"optimizer": {"kind": "adam", "sparse": True}},
    "other moments": {"optimizer": {"kind": "adam", "beta1": 0.5, "beta2": 0.9, "epsilon": 1e-3}},
    "frozen bias": {"frozen": "b_dec"},
    "schedule": {"schedule": {"warmup": 0.1, "decay_from": 0.15}},
}
BOTH = ("topk", "batch_topk")


@pytest.mark.parametrize("name", VARIANTS)
def test_one_sae_agrees_with_float64(name: str, start: Start, settings: Settings, batches: Batches) -> None:
    check([start()], settings(**VARIANTS[name]), batches(5 if name == "schedule" else 3))


@pytest.mark.parametrize("mean", [0.0, 30.0])
def test_rates_weights_and_architectures_of_one_program_agree_with_float64(
    mean: float, start: Start, settings: Settings, batches: Batches
) -> None:
    saes = [start(architecture, center=0.9 * mean, seed=seed) for seed, architecture in enumerate(BOTH * 2)]
    own = [settings((rate,), architecture=of)[0] for rate, of in zip((1e-3, 3e-3, 1e-2, 1e-3), BOTH * 2, strict=True)]
    check(saes, own, batches(3, mean))


def test_more_latents_than_are_positive(start: Start, settings: Settings, batches: Batches) -> None:
    own = [settings(k=D_SAE, architecture=architecture)[0] for architecture in BOTH]
    check([start(architecture, k=D_SAE) for architecture in BOTH], own, batches(3))


@pytest.mark.parametrize("k_aux", [3, None], ids=["three of the dead", "half of d_in"])
def test_auxk_agrees_with_float64(k_aux: int | None, start: Start, settings: Settings, batches: Batches) -> None:
    auxk = {"kind": "auxk", "k": k_aux, "auxk_coefficient": 0.5}
    own = [settings(architecture=architecture, dead_latents=auxk, k=1)[0] for architecture in BOTH]
    check([start(architecture, k=1) for architecture in BOTH], own, batches(4, mean=3.0))
