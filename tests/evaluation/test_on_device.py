"""SAEs that are measured on a device have the figures that a CPU finds, and the host waits for them once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch

from saelib.activations.rows import ArrayRows
from saelib.config import TrainConfig, VariantConfig
from saelib.evaluation.reconstruction import evaluate
from saelib.evaluation.result import Evaluation
from saelib.evaluation.space import Space
from saelib.preprocessing.on_device import DevicePreprocessing
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.initial_weights import initial_sae
from saelib.sae.model import SAE
from saelib.train.halves import only
from tests.waits import HostReads

D_IN = 12
PREPROCESSINGS = {
    "raw": Preprocessing(np.zeros(D_IN)),
    "centered": Preprocessing(np.full(D_IN, 2.0)),
    "scaled": Preprocessing(np.full(D_IN, 2.0), np.linspace(0.5, 2, D_IN, dtype=np.float32)),
    "layernorm": Preprocessing(np.zeros(D_IN), token_norm="layernorm"),
    "narrower": Preprocessing(
        np.full(D_IN, 2.0), np.linalg.qr(np.random.default_rng(1).standard_normal((D_IN, D_IN)))[0][:, :9].astype("f4")
    ),
}
VARIANTS: list[dict[str, Any]] = [
    {},
    {"architecture": "abs_topk"},
    {"architecture": "batch_topk"},
    {"architecture": "relu", "bypass": {"rank": 2}},
    {"architecture": "jumprelu"},
]


def rows(tokens: int = 701) -> ArrayRows:
    """Rows about a mean in float16, with a massive token and one of zeros."""
    values = np.random.default_rng(2).standard_normal((tokens, D_IN)).astype(np.float16)
    values[5] *= 300
    values[6] = -2
    return ArrayRows(values, block_rows=128, offset=np.full(D_IN, 2, np.float32))


def space_on(device: str, preprocess: Preprocessing, stored: ArrayRows) -> Space:
    """A space whose SAEs are measured as on a GPU."""
    space = Space(preprocess, stored, device)
    space.on_device = DevicePreprocessing(space.preprocess, device)
    return space


def sae_of(space: Space, options: dict[str, Any]) -> SAE:
    variant = VariantConfig.model_validate(options)
    sae = initial_sae(len(space.initial_bias), TrainConfig(d_sae=40, k=3), variant, seed=0, b_dec=space.initial_bias)
    with torch.no_grad():
        if sae.bypass_out is not None:
            sae.bypass_out.fill_(0.1)
    return sae


def measured(
    space: Space, saes: Sequence[SAE], stored: ArrayRows, marked: np.ndarray | None = None
) -> list[Evaluation]:
    samples = space.samples(stored, stored.shape[0], 100)
    moved = [sae.to(space.device) for sae in saes]
    return evaluate(moved, samples if marked is None else only(samples, marked), space)


@pytest.mark.parametrize("options", VARIANTS, ids=lambda options: options.get("architecture", "topk"))
@pytest.mark.parametrize("name", PREPROCESSINGS)
def test_figures_are_those_of_a_cpu(name: str, options: dict[str, Any], device: str) -> None:
    stored, preprocess = rows(), PREPROCESSINGS[name]
    marked = np.arange(stored.shape[0]) % 3 > 0
    on_cpu = Space(preprocess, stored, "cpu")
    (wanted,) = measured(on_cpu, [sae_of(on_cpu, options)], stored, marked)
    ours = space_on(device, preprocess, stored)
    (found,) = measured(ours, [sae_of(ours, options)], stored, marked)
    for field, value in vars(wanted).items():
        other = getattr(found, field)
        if value is None or field.startswith("dead"):
            assert other == value, field
        else:
            assert other == pytest.approx(value, rel=1e-5, abs=1e-6), field


def test_all_figures_of_all_saes_are_read_together() -> None:
    stored = rows()
    space = space_on("cpu", PREPROCESSINGS["narrower"], stored)
    saes = [sae_of(space, options) for options in VARIANTS]
    samples = list(space.samples(stored, 300, 100))
    with HostReads() as reads:
        found = evaluate(saes, samples, space)
    assert len(found) == len(VARIANTS)
    assert reads.found == []  # the one copy, `tolist` of a vector, is no read of a single value


@pytest.mark.parametrize("tokens", [1, 2, 5, 6])
def test_the_median_is_numpys_for_even_and_odd_numbers_of_tokens(tokens: int) -> None:
    stored = rows(8)
    (found,) = evaluate(*_of_first(space_on("cpu", PREPROCESSINGS["raw"], stored), stored, tokens))
    (wanted,) = evaluate(*_of_first(Space(PREPROCESSINGS["raw"], stored, "cpu"), stored, tokens))
    assert found.token_fvu_median == pytest.approx(wanted.token_fvu_median, rel=1e-6)


def _of_first(space: Space, stored: ArrayRows, tokens: int) -> tuple[Any, ...]:
    return [sae_of(space, {})], space.samples(stored, tokens, tokens), space


def test_tokens_at_the_center_are_left_out_and_numbers_that_are_none_stay_to_be_seen() -> None:
    stored = rows(64)
    plain, ours = Space(PREPROCESSINGS["raw"], stored, "cpu"), space_on("cpu", PREPROCESSINGS["raw"], stored)
    for space in (plain, ours):
        space.center = stored.values[3].astype(np.float64) + 2
    found = [measured(space, [sae_of(space, {})], stored)[0].token_fvu_mean for space in (plain, ours)]
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    broken = sae_of(ours, {})
    with torch.no_grad():
        broken.W_dec.fill_(torch.nan)
    (nan,) = measured(ours, [broken], stored)
    assert np.isnan([nan.mse, nan.token_fvu_median, nan.token_fvu_mean]).all()
    only_center = ArrayRows(np.repeat(stored.values[3:4], 4, 0), offset=stored.offset)
    (zero,) = measured(ours, [sae_of(ours, {})], only_center)
    assert (zero.token_fvu_median, zero.token_fvu_mean) == (0, 0)
