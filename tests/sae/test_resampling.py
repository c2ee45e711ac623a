"""Dead latents that start again at badly reconstructed tokens."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from saelib.config.training import TrainConfig, VariantConfig
from saelib.errors import UserError
from saelib.sae.autograd.resample import resample
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings

Make = Callable[..., SAE]
Variant = Callable[..., VariantConfig]
DEAD = torch.tensor([3, 10, 40])


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def marked(latents: Tensor) -> Tensor:
    return torch.zeros(64, dtype=torch.bool).index_fill(0, latents, True)


def test_latents_point_at_tokens_and_forget_their_moments(make_sae: Make, batches: Callable):
    sae, x = make_sae(), batches(1)[0]
    alive = ~marked(DEAD)
    before = {name: value.clone() for name, value in sae.state_dict().items()}
    moments = {f"{kind}.{name}": torch.ones_like(p).detach() for kind in "mv" for name, p in sae.named_parameters()}
    losses = torch.zeros(16, dtype=torch.float64)
    losses[[2, 5, 7]] = 1.0
    restarted = resample(sae, x, losses, marked(DEAD), moments, generator())
    assert restarted.tolist() == DEAD.tolist()
    directions = F.normalize(x[[2, 5, 7]] - before["b_dec"], dim=1)
    cosines = sae.W_dec[DEAD].detach() @ directions.T
    assert sorted(cosines.argmax(1).tolist()) == [0, 1, 2]  # each token once
    torch.testing.assert_close(cosines.amax(1), torch.ones(3, dtype=torch.float64))
    scale = 0.2 * before["W_enc"][:, alive].norm(dim=0).mean()
    torch.testing.assert_close(sae.W_enc[:, DEAD].detach(), (scale * sae.W_dec[DEAD]).T.detach())
    assert not sae.b_enc[DEAD].any()
    for name, value in sae.state_dict().items():
        if name != "b_dec":
            values = [value, before[name], moments[f"m.{name}"], moments[f"v.{name}"]]
            now, then, m, v = (tensor.T if name == "W_enc" else tensor for tensor in values)
            assert torch.equal(now[alive], then[alive])
            assert (m[alive] == 1).all()
            assert (v[alive] == 1).all()
            assert not m[DEAD].any()
            assert not v[DEAD].any()
    assert torch.equal(sae.b_dec, before["b_dec"])
    assert (moments["m.b_dec"] == 1).all()


def test_tokens_are_drawn_with_the_square_of_their_loss(make_sae: Make):
    x = torch.eye(7, dtype=torch.float64)[:2]
    losses = torch.tensor([1.0, 3.0], dtype=torch.float64)  # odds of 1 to 9
    first = 0
    for seed in range(500):
        sae = make_sae()
        with torch.no_grad():
            sae.b_dec.zero_()
        resample(sae, x, losses, marked(torch.tensor([5])), {}, torch.Generator().manual_seed(seed))
        first += int(sae.W_dec[5, 0] > 0.5)
    assert first == pytest.approx(50, abs=21)  # three standard deviations


def test_no_token_is_drawn_twice_or_without_a_loss(make_sae: Make, batches: Callable):
    losses = torch.zeros(16)
    losses[[0, 1]] = 1.0
    restarted = resample(make_sae(), batches(1)[0], losses, marked(DEAD), {}, generator())
    assert restarted.tolist() == [3, 10]
    assert len(resample(make_sae(), batches(1)[0], losses, marked(DEAD[:0]), {}, generator())) == 0


@pytest.mark.parametrize(("until", "expected"), [(None, [3, 6]), (9, [3, 6, 9])])
@pytest.mark.parametrize("architecture", ["topk", {"kind": "jumprelu", "initial_threshold": 0.25}], ids=str)
def test_happens_at_its_steps_and_resets_the_counters(
    make_sae: Make, variant: Variant, batches: Callable, architecture, until: int | None, expected: list[int]
):
    method = variant(architecture=architecture, dead_latents={"kind": "resample", "every": 3, "until": until})
    sae, dead = make_sae(architecture), DEAD[:2]
    with torch.no_grad():
        sae.b_enc[dead] = -1e6
    config = TrainConfig(d_sae=64, k=2, dead_after_examples=16, steps=12)
    trainer = TorchTrainer(sae, TrainerSettings(config, method, learning_rate=1e-3, variance=11.0))
    happened = []
    for step, x in enumerate(batches(12), 1):
        with torch.no_grad():
            sae.b_enc[dead] = -1e6
        trainer.step(x)
        if (sae.b_enc[dead] == 0).all():
            happened.append(step)
            assert not trainer.tokens_since_fired[dead].any()
            assert not trainer.tokens_since_positive[dead].any()
            if sae.architecture == "jumprelu":
                torch.testing.assert_close(sae.threshold[dead].detach(), torch.full((2,), 0.25, dtype=torch.float64))
    assert happened == expected


@pytest.mark.parametrize("frozen", ["features", "decoder"])
def test_frozen_directions_cannot_be_resampled(make_sae: Make, variant: Variant, frozen: str):
    method = variant(dead_latents={"kind": "resample"}, frozen=frozen)
    with pytest.raises(UserError, match=f"frozen: {frozen}"):
        TorchTrainer(make_sae(), TrainerSettings(TrainConfig(d_sae=64, k=2), method, learning_rate=1e-3, variance=1.0))
