"""Laws of the kernels for any loss: bits, threads, resuming, dead latents stay, bad input."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saelib.config.training import Adam, AuxK, OptimizerConfig, SignSGD, TrainConfig, VariantConfig
from saelib.sae.kernels.cpu import why_unsupported
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings

pytestmark = pytest.mark.skipif(why_unsupported() is not None, reason="the kernels do not run on this processor")


@pytest.fixture(autouse=True)
def one_torch_thread() -> Iterator[None]:
    """Several would spend their time waiting for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


D_IN, D_SAE, K, TOKENS = 70, 300, 8, 500
AUXK = VariantConfig(dead_latents=AuxK(kind="auxk", k=24))
NO_AVX512 = "+sse,+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+cx16,+avx,+avx2,+fma,+f16c,+bmi,+bmi2,+lzcnt,+movbe"


def make_sae(d_sae: int = D_SAE) -> SAE:
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(d_sae, D_IN, generator=generator))
    biases = {"b_enc": torch.zeros(d_sae), "b_dec": torch.zeros(D_IN)}
    return SAE("topk", {"W_enc": rows.clone().T, "W_dec": rows.clone(), **biases}, K)


SMALL = VariantConfig(learning_rates=(1e-3,))
"""As good as VariantConfig(); here it asks for the trainer of small SAEs."""
SMALL_AUXK = AUXK.model_copy(update={"learning_rates": (1e-3,)})


def make_trainer(variant: VariantConfig = AUXK, sae: SAE | None = None, threads: int = 1):
    from saelib.sae.kernels.large import KernelTrainer
    from saelib.sae.kernels.small import SmallKernelTrainer

    sae = sae or make_sae()
    config = TrainConfig(d_sae=sae.d_sae, k=K, steps=100, dead_after_examples=3 * TOKENS)
    kind = SmallKernelTrainer if variant.learning_rates else KernelTrainer
    return kind(sae, TrainerSettings(config, variant, learning_rate=1e-3, variance=10.0, threads=threads))


def make_batches(steps: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(TOKENS, D_IN, generator=generator) + 1.0 for _ in range(steps)]


def assert_same_bits(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("variant", [AUXK, SMALL, SMALL_AUXK])
def test_the_number_of_threads_changes_no_bit(variant: VariantConfig) -> None:
    batches = [torch.cat([x, x * 0.5, x - 0.1]) for x in make_batches(8)]  # several blocks, tasks and chunks
    trainers = [make_trainer(variant, threads=threads) for threads in (1, 2, 3)]
    for trainer in trainers:
        for x in batches:
            trainer.step(x)
    assert trainers[0].tokens_since_fired.any()
    assert_same_bits(trainers[0].state_dict(), trainers[1].state_dict())
    assert_same_bits(trainers[0].state_dict(), trainers[2].state_dict())


@pytest.mark.parametrize(
    "variant",
    [
        AUXK,
        VariantConfig(optimizer=Adam(sparse=True)),
        VariantConfig(optimizer=SignSGD(kind="sign_sgd")),
        VariantConfig(frozen="features"),
        SMALL,
    ],
)
def test_going_on_from_a_state_gives_the_same_bits(variant: VariantConfig) -> None:
    batches = make_batches(12)
    whole, before = make_trainer(variant), make_trainer(variant)
    for x in batches[:6]:
        before.step(x)
    state = before.state_dict()
    before.step(batches[6])  # must not reach the copies
    after = make_trainer(variant, make_sae())
    after.load_state_dict(state)
    assert_same_bits(state, after.state_dict())
    for x in batches[6:]:
        after.step(x)
    for x in batches:
        whole.step(x)
    assert_same_bits(whole.state_dict(), after.state_dict())


@pytest.mark.parametrize("base", [AUXK, SMALL])
@pytest.mark.parametrize("optimizer", [Adam(), Adam(sparse=True), SignSGD(kind="sign_sgd")])
def test_a_latent_that_is_positive_nowhere_never_changes(base: VariantConfig, optimizer: OptimizerConfig) -> None:
    sae = make_sae()
    sae.b_enc.data[5] = -1000.0
    variant = base.model_copy(update={"frozen": "b_dec", "optimizer": optimizer})
    trainer = make_trainer(variant, sae)
    start = {name: value.clone() for name, value in sae.state_dict().items()}
    for x in make_batches(10):
        trainer.step(x)
    now = trainer.sae.state_dict()
    assert torch.equal(now["W_enc"][:, 5], start["W_enc"][:, 5])
    assert torch.equal(now["W_dec"][5], start["W_dec"][5])
    assert torch.equal(now["b_enc"][5], start["b_enc"][5])
    assert torch.equal(now["b_dec"], start["b_dec"])
    assert not torch.equal(now["W_dec"][6], start["W_dec"][6])
    assert trainer.tokens_since_positive[5] == trainer.tokens_since_fired[5] == 10 * TOKENS


@pytest.mark.parametrize("base", [AUXK, SMALL])
def test_frozen_features_move_the_bias_by_the_rate_each_step(base: VariantConfig) -> None:
    sae, steps = make_sae(), 20
    sae.b_enc.data[:] = -1000.0  # nothing fires, so that b_dec's gradient is that of the distance to the mean
    trainer = make_trainer(base.model_copy(update={"frozen": "features"}), sae)
    (x,) = make_batches(1)
    for _ in range(steps):
        trainer.step(x + 5.0)
    torch.testing.assert_close(trainer.sae.b_dec.data, torch.full((D_IN,), steps * 1e-3), rtol=1e-3, atol=0)
    assert torch.equal(trainer.sae.W_dec, sae.W_dec)
    assert torch.equal(trainer.sae.W_enc, sae.W_enc)


@pytest.mark.parametrize("variant", [AUXK, SMALL, SMALL_AUXK])
def test_decoder_rows_are_unit_after_every_step(variant: VariantConfig) -> None:
    trainer = make_trainer(variant)
    for x in make_batches(5):
        trainer.step(x)
        torch.testing.assert_close(trainer.sae.W_dec.norm(dim=1), torch.ones(D_SAE), rtol=0, atol=2e-6)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("variant", [AUXK, VariantConfig(frozen="b_dec"), SMALL])
def test_bad_values_neither_crash_nor_hide(bad: float, variant: VariantConfig) -> None:
    trainer = make_trainer(variant)
    batches = make_batches(8)
    batches[2][3] = bad
    for x in batches:
        trainer.step(x)
    assert not trainer.sae(batches[0]).isfinite().all()


def test_kernels_in_the_cache_belong_to_the_sources() -> None:
    from saelib.sae.kernels import compiled, forward

    encode_block: Any = forward.encode_block
    assert encode_block._cache._cache_file._source_stamp == compiled.SOURCES


def test_the_same_laws_hold_without_avx512(tmp_path: Path) -> None:
    from saelib.sae.kernels.cpu import vector_lanes

    if os.environ.get("NUMBA_CPU_FEATURES") == NO_AVX512:
        assert vector_lanes() == 8
        return
    if vector_lanes() == 8:
        pytest.skip("no AVX-512 to leave out: on this processor the whole folder runs without it as it is")
    processor = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": NO_AVX512}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(Path(__file__).parent)]
    result = subprocess.run(command, env=os.environ | processor, capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0, result.stdout[-3000:]
