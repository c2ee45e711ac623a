"""Many SAEs on one stream: each agrees with float64 autograd, and no bit of it depends on the others."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from saelib.config.training import TrainConfig, VariantConfig
from saelib.errors import UserError
from saelib.sae import choose
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.initial_weights import initial_sae
from saelib.sae.model import SAE
from saelib.sae.population import PopulationTrainer
from saelib.sae.trainer import TrainerSettings

D_IN, D_SAE, K, TOKENS, STEPS = 20, 60, 5, 1100, 12
VARIANCE = 9.0
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "frozen bias": {"frozen": "b_dec"},
    "frozen features": {"frozen": "features"},
    "sparse adam": {"optimizer": {"kind": "adam", "sparse": True}},
    "unprojected": {"project_decoder": False},
    "warmup": {"schedule": {"warmup": 0.5}},
    "auxk": {"dead_latents": {"kind": "auxk", "k": 7}},
    "ghosts": {"dead_latents": "ghost_grads"},
    "batch_topk": {"architecture": "batch_topk"},
    "relu": {"architecture": "relu"},
}
Population = tuple[list[SAE], list[TrainerSettings], NDArray[np.float64], NDArray[np.float64]]


def population(variants: list[str], **sizes: int) -> Population:
    """An SAE of each variant, with its own weights, rate, scale and offset."""
    config = TrainConfig(d_sae=D_SAE, k=K, steps=STEPS, dead_after_examples=3 * TOKENS).model_copy(update=sizes)
    random, saes, settings = torch.Generator().manual_seed(0), [], []
    for seed, name in enumerate(variants):
        variant = VariantConfig.model_validate(VARIANTS[name])
        sae = initial_sae(sizes.get("d_in", D_IN), config, variant, seed=seed)
        with torch.no_grad():
            sae.b_enc.add_(0.1 * torch.randn(sae.d_sae, generator=random))
            sae.b_enc[::10] -= 2
        saes.append(sae)
        settings.append(TrainerSettings(config, variant, learning_rate=1e-3 * (1 + seed % 3), variance=VARIANCE))
    draw = np.random.default_rng(1)
    count, d_in = len(variants), saes[0].d_in
    return saes, settings, draw.uniform(0.5, 2, count), draw.standard_normal((count, d_in))


def signals(steps: int = STEPS, tokens: int = TOKENS, d_in: int = D_IN) -> list[NDArray[np.float32]]:
    draw = np.random.default_rng(2)
    return [draw.standard_normal((tokens, d_in), dtype=np.float32) for _ in range(steps)]


def state(trainer: PopulationTrainer, i: int) -> dict[str, torch.Tensor]:
    return trainer.members[i].state_dict()


def assert_same_bits(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def check_against_float64(trainer: PopulationTrainer, reference: Population, batches: list[NDArray[np.float32]]):
    saes, settings, scales, offsets = reference
    starts = [{name: value.clone() for name, value in sae.double().state_dict().items()} for sae in saes]
    exact = [TorchTrainer(sae.double(), own) for sae, own in zip(saes, settings, strict=True)]
    for signal in batches:
        trainer.step(signal)
        for i, other in enumerate(exact):
            x = torch.from_numpy(signal.astype(np.float64) * np.float32(scales[i]) + np.float32(offsets[i]))
            check_metrics(trainer, i, other.sae, x)
            other.step(x)
            assert trainer.members[i].gradient_norms() == pytest.approx(other.gradient_norms(), rel=1e-3)
            assert trainer.tokens_since_fired[i].tolist() == other.tokens_since_fired.tolist()
            assert trainer.tokens_since_positive[i].tolist() == other.tokens_since_positive.tolist()
    for i, (start, other) in enumerate(zip(starts, exact, strict=True)):
        for name, value in other.sae.state_dict().items():
            found = trainer.sae(i).state_dict()[name].double()
            assert (found - value).norm() <= 2e-3 * (value - start[name]).norm(), (i, name)


@torch.no_grad()
def check_metrics(trainer: PopulationTrainer, i: int, sae: SAE, x: torch.Tensor) -> None:
    """The figures of the last step, against `sae` as it was before."""
    hidden_pre = sae.hidden_pre(x)
    if sae.architecture == "batch_topk":
        kth = hidden_pre.flatten().sort().values[-K * len(x)]
        codes = torch.where(hidden_pre >= kth, hidden_pre, 0)
    else:
        codes = sae.activate(hidden_pre)
        kth = codes.sort(1).values[:, -(sae.k or 1)].mean()
    decoded = codes @ sae.W_dec
    error = (decoded + sae.b_dec - x).square().sum(1).mean()
    assert trainer.mse[i] == pytest.approx(error.item(), rel=1e-4)
    assert trainer.mean_decoded[i] == pytest.approx(decoded.mean(0).numpy(), abs=1e-4)
    assert trainer.mean_kth_activation[i] == pytest.approx(kth.item(), rel=1e-4)


def test_every_sae_agrees_with_float64_autograd() -> None:
    trainer = PopulationTrainer(*population(list(VARIANTS)))
    check_against_float64(trainer, population(list(VARIANTS)), signals())
    assert trainer.tokens_since_fired.any()
    assert trainer.tokens_since_positive.any()
    assert trainer.steps_done == STEPS


@pytest.mark.parametrize(
    ("d_in", "d_sae", "k", "tokens"),
    [(50, 100, 5, 300), (1, 3, 1, 33), (16, 17, 17, 64), (70, 100, 9, 31), (64, 128, 13, 1025)],
)
def test_sizes(d_in: int, d_sae: int, k: int, tokens: int) -> None:
    one, other = (population(["plain", "frozen bias"], d_in=d_in, d_sae=d_sae, k=k) for _ in range(2))
    check_against_float64(PopulationTrainer(*one), other, signals(4, tokens, d_in))


def test_sign_sgd_moves_by_the_rate() -> None:
    saes, settings, scales, offsets = population(["plain"])
    variant = VariantConfig.model_validate({"optimizer": "sign_sgd"})
    settings = [TrainerSettings(settings[0].config, variant, learning_rate=1e-3, variance=VARIANCE)]
    trainer = PopulationTrainer(saes, settings, scales, offsets)
    before = trainer.sae(0).b_dec.detach().clone()
    trainer.step(signals(1)[0])
    torch.testing.assert_close((trainer.sae(0).b_dec - before).abs(), torch.full((D_IN,), 1e-3), rtol=0, atol=1e-6)


def test_no_bit_depends_on_the_others_or_on_threads() -> None:
    names = [*VARIANTS, "plain", "plain"]
    together = [PopulationTrainer(*population(names), threads=threads) for threads in (1, 3)]
    saes, settings, scales, offsets = population(names)
    alone = [
        PopulationTrainer([sae], [settings[i]], scales[i : i + 1], offsets[i : i + 1]) for i, sae in enumerate(saes)
    ]
    for signal in signals(5):
        for trainer in (*together, *alone):
            trainer.step(signal)
    for i, own in enumerate(alone):
        for trainer in together:
            assert_same_bits(state(trainer, i), state(own, 0))
            assert trainer.mse[i] == own.mse[0]
            assert trainer.mean_kth_activation[i] == own.mean_kth_activation[0]
            assert (trainer.mean_decoded[i] == own.mean_decoded[0]).all()


def test_a_latent_that_is_positive_nowhere_has_no_gradient_while_the_bias_is_frozen() -> None:
    saes, settings, scales, offsets = population(["frozen bias"] * 2)
    offsets *= 20
    start = [{name: value.clone() for name, value in sae.state_dict().items()} for sae in saes]
    trainer = PopulationTrainer(saes, settings, scales, offsets)
    for signal in signals():
        trainer.step(signal)
    for i, before in enumerate(start):
        dead = torch.from_numpy(trainer.tokens_since_positive[i] == STEPS * TOKENS)
        now = trainer.sae(i).state_dict()
        assert 0 < dead.sum() < D_SAE
        assert torch.equal(now["W_enc"][:, dead], before["W_enc"][:, dead])
        assert torch.equal(now["W_dec"][dead], before["W_dec"][dead])
        assert torch.equal(now["b_enc"][dead], before["b_enc"][dead])
        assert torch.equal(now["b_dec"], before["b_dec"])
        assert not torch.equal(now["W_dec"], before["W_dec"])


def test_a_population_resumes_from_the_states_of_its_members() -> None:
    names = ["plain", "auxk", "ghosts"]
    whole, before, after = (PopulationTrainer(*population(names)) for _ in range(3))
    batches = signals(8)
    for signal in batches[:5]:
        before.step(signal)
    for old, new in zip(before.members, after.members, strict=True):
        new.load_state_dict(old.state_dict())
    for signal in batches:
        whole.step(signal)
    for signal in batches[5:]:
        after.step(signal)
    for i in range(len(names)):
        assert_same_bits(state(whole, i), state(after, i))


def test_leaving_out_metrics_changes_no_bit() -> None:
    names = list(VARIANTS)
    measured, other = (PopulationTrainer(*population(names), measure=measure) for measure in (True, False))
    for signal in signals(5):
        measured.step(signal)
        other.step(signal)
    for i, name in enumerate(names):
        assert_same_bits(state(measured, i), state(other, i))
        if name in ("ghosts", "batch_topk", "relu"):
            assert np.isnan([other.mse[i], other.mean_kth_activation[i], *other.mean_decoded[i]]).all()
        else:
            assert (other.mse[i], other.mean_kth_activation[i]) == (measured.mse[i], measured.mean_kth_activation[i])


def test_rates_can_be_changed() -> None:
    saes, settings, scales, offsets = population(["plain", "ghosts"])
    changed = PopulationTrainer(saes, settings, scales, offsets)
    rates = [5e-3, 7e-3]
    saes, settings, scales, offsets = population(["plain", "ghosts"])
    own = [TrainerSettings(s.config, s.variant, rate, VARIANCE) for s, rate in zip(settings, rates, strict=True)]
    given = PopulationTrainer(saes, own, scales, offsets)
    for number, signal in enumerate(signals(3)):
        changed.step(signal, rates if number == 0 else None)
        given.step(signal)
    for i in range(2):
        assert_same_bits(state(changed, i), state(given, i))


def test_torch_trains_all_where_the_kernels_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from saelib.sae import population as module

    for place in (choose, module):
        monkeypatch.setattr(place, "why_unsupported", lambda: "the processor is of another kind")
    trainer = PopulationTrainer(*population(["plain", "frozen bias"]), threads=2)
    assert all(isinstance(member, TorchTrainer) for member in trainer.members)
    check_against_float64(trainer, population(["plain", "frozen bias"]), signals(3))


def test_unequal_sizes_and_missing_settings_are_refused() -> None:
    saes, settings, scales, offsets = population(["plain", "plain"])
    with pytest.raises(UserError, match="scales \\[2\\]"):
        PopulationTrainer(saes, settings, scales[:1], offsets)
    with pytest.raises(UserError, match="offsets \\[2, 20\\]"):
        PopulationTrainer(saes, settings, scales, offsets[:, 1:])
    with pytest.raises(UserError, match="2 settings"):
        PopulationTrainer(saes, settings[:1], scales, offsets)
    (other, *_), *_ = population(["plain"], d_sae=61)
    with pytest.raises(UserError, match="one d_in, d_sae and k"):
        PopulationTrainer([saes[0], other], settings, scales, offsets)
