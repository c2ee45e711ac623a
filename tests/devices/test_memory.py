"""An exhausted GPU is one sentence, and the sizes that it names fit."""

import re
from dataclasses import replace

import pytest
import torch

from saelib.config import TrainConfig, VariantConfig
from saelib.config.load import check_config
from saelib.devices.memory import explained_shortage, gigabytes
from saelib.errors import UserError
from saelib.extract import batches
from saelib.train.memory import Sizes, sizes_of, too_little_memory

LARGE = Sizes(d_in=4096, d_sae=65_536, batch_size=4096, rates=7, codes=4)


def test_torchs_error_becomes_one_sentence() -> None:
    with (
        pytest.raises(UserError, match=r"^80\.0 GB are not enough$"),
        explained_shortage(lambda usable: f"{gigabytes(usable + 80e9)} are not enough"),
    ):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 8.00 GiB.")


def test_other_errors_stay_what_they_are() -> None:
    with pytest.raises(RuntimeError, match="a defect"), explained_shortage(lambda usable: "memory"):
        raise RuntimeError("a defect")


def test_memory_is_that_of_weights_gradients_moments_and_codes() -> None:
    without_batch = replace(LARGE, batch_size=0)
    assert without_batch.needed == 7 * 4 * (2 * 4096 * 65_536) * 4
    assert LARGE.needed - without_batch.needed == 4 * 4096 * (4 * 65_536 + 8 * 4096)


def test_rates_of_all_sweeps_and_dense_codes_count() -> None:
    config = TrainConfig(learning_rates=(1e-3, 1e-2))
    plain = VariantConfig()
    more = VariantConfig.model_validate({"dead_latents": "auxk", "learning_rates": [1e-4]})
    assert sizes_of(8, config, [plain]).rates == 2
    both = sizes_of(8, config, [plain, more])
    assert both.rates == 3
    assert both.codes > sizes_of(8, config, [plain]).codes


@pytest.mark.parametrize("usable", [60e9, 40e9, 12e9, 3e9])
def test_every_size_that_the_sentence_names_fits_and_twice_of_it_does_not(usable: float) -> None:
    said = too_little_memory("calm layer 1, variant auxk", LARGE, usable, 1, "stream.sweeps_per_pass")
    assert said.startswith("calm layer 1, variant auxk: its 7 SAEs of d_sae 65,536")
    named = dict(re.findall(r"train\.(\w+): (\d+)", said))
    assert named
    for key, value in named.items():
        assert replace(LARGE, **{key: int(value)}).needed <= usable
        if 2 * int(value) < getattr(LARGE, key):
            assert replace(LARGE, **{key: 2 * int(value)}).needed > usable
    for rates in re.findall(r"(\d) learning rates", said):
        assert replace(LARGE, rates=int(rates)).needed <= usable < replace(LARGE, rates=int(rates) + 1).needed


@pytest.mark.parametrize("option", ["stream.sweeps_per_pass", "train.variants_per_job"])
def test_sweeps_that_share_a_job_are_advised_to_share_it_with_fewer(option: str) -> None:
    sizes = replace(LARGE, rates=28)
    assert f"{option}: 2" in too_little_memory("calm", sizes, 140e9, 4, option)


def test_saes_that_step_as_one_program_have_their_codes_in_memory_at_the_same_time() -> None:
    config = TrainConfig(learning_rates=(1e-3, 1e-2))
    one, apart = sizes_of(8, config, [VariantConfig()]), sizes_of(8, config, [VariantConfig(clip=1.0)])
    batch = replace(one, rates=1).needed - replace(one, rates=1, batch_size=0).needed
    assert one.needed - apart.needed == batch


def test_a_card_that_holds_no_smaller_size_is_said_to_be_too_small() -> None:
    assert "no smaller size of it would fit" in too_little_memory("calm", LARGE, 0.0, 1, "stream.sweeps_per_pass")


def test_a_model_that_does_not_fit_is_told_which_options_make_it_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(batches, "open_source", exhausted)
    source = {"family": "transformers", "weights": {"path": "weights"}, "batch_size": 8}
    model = {"domain": "x", "source": source, "dataset": "docs", "layers": 1, "blocks": 2}
    config = check_config({"datasets": {"docs": {"kind": "python_docs"}}, "models": {"calm": model}}, "suite.yaml")
    with pytest.raises(
        UserError, match=r"calm: the .* GB .* batch of 8 examples; set models.calm.source.batch_size: 4"
    ):
        batches.open_batches("calm", config, [1])
