"""A low-rank bypass: steps against plain autograd, what it absorbs, its file, its measures and its refusals."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from saelib.activations.rows import ArrayRows
from saelib.config.training import TrainConfig, VariantConfig
from saelib.errors import UserError
from saelib.evaluation.measure import measure
from saelib.evaluation.reconstruction import evaluate
from saelib.evaluation.space import Space
from saelib.interchange import FORMATS, export_sae
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.file import SavedSAE, load_sae, save_sae
from saelib.sae.fold import fold_preprocess
from saelib.sae.initial_weights import initial_sae
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings

Make = Callable[..., SAE]
LR, VARIANCE = 1e-2, 11.0
ARCHITECTURES = [
    "topk",
    "batch_topk",
    "abs_topk",
    {"kind": "relu", "l1": 0.02},
    {"kind": "jumprelu", "initial_threshold": 0.3, "bandwidth": 0.2},
]
COMBINED = [
    (architecture, dead_latents)
    for architecture in ARCHITECTURES
    for dead_latents in ("none", "auxk", "ghost_grads")
    if (architecture, dead_latents) != ("abs_topk", "ghost_grads")  # which the config refuses
]


def with_bypass(sae: SAE, rank: int = 3) -> SAE:
    """The same weights and a bypass that adds something, in the dtype of the SAE."""
    generator = torch.Generator().manual_seed(4)
    down, up = (0.3 * torch.randn(*shape, generator=generator) for shape in ((sae.d_in, rank), (rank, sae.d_in)))
    weights = {"bypass_in": down.to(sae.b_dec), "bypass_out": up.to(sae.b_dec)}
    return SAE(sae.architecture, {**{n: v.detach() for n, v in sae.state_dict().items()}, **weights}, sae.k)


def trainer_of(sae: SAE, steps: int = 50, **options: Any) -> TorchTrainer:
    config = TrainConfig(d_sae=64, k=2, dead_after_examples=64, steps=steps)
    variant = VariantConfig.model_validate(options)
    return TorchTrainer(sae, TrainerSettings(config, variant, learning_rate=LR, variance=VARIANCE, seed=5))


@pytest.mark.parametrize(("architecture", "dead_latents"), COMBINED, ids=str)
def test_steps_are_those_of_plain_dense_training(
    make_sae: Make, batches: Callable[..., list[Tensor]], dense_loss: Callable, architecture, dead_latents: str
):
    sae, options = with_bypass(make_sae(architecture)), {"architecture": architecture, "dead_latents": dead_latents}
    p = {name: value.detach().clone().requires_grad_() for name, value in sae.named_parameters()}
    assert "bypass_in" in p
    optimizer, silent = torch.optim.Adam(p.values(), lr=LR), torch.zeros(64, dtype=torch.int64)
    trainer = trainer_of(sae, bypass={"rank": 3}, **options)
    for x in batches(25):
        trainer.step(x)
        loss, codes = dense_loss(p, x, trainer.variant, 2, VARIANCE, silent, 64)
        silent = torch.where((codes != 0).any(0), 0, silent + len(x))
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            d = p["W_dec"]
            assert d.grad is not None
            d.grad -= (d.grad * d).sum(1, keepdim=True) * d
            optimizer.step()
            d /= d.norm(dim=1, keepdim=True)
            if "threshold" in p:
                p["threshold"].clamp_(min=0)
    for name, parameter in sae.named_parameters():
        torch.testing.assert_close(parameter.detach(), p[name].detach(), rtol=1e-8, atol=1e-8)


def test_training_starts_as_without_it():
    config = TrainConfig(d_sae=64, k=2)
    plain, other = (
        initial_sae(7, config, VariantConfig.model_validate(options), seed=0)
        for options in ({}, {"bypass": {"rank": 2}})
    )
    x = torch.randn(9, 7, generator=torch.Generator().manual_seed(1))
    assert torch.equal(plain.W_enc, other.W_enc)
    assert torch.equal(plain(x), other(x))


def test_without_latents_it_learns_the_leading_directions(make_sae: Make):
    """The least error of a linear map of rank 2 is what the other principal components hold."""
    sae = with_bypass(make_sae(), rank=2)
    with torch.no_grad():
        sae.b_enc.fill_(-1e6)
    scales = torch.tensor([5.0, 4, 0.5, 0.5, 0.3, 0.2, 0.1], dtype=torch.float64)
    x = 1 + torch.linalg.qr(torch.randn(200, 7, generator=torch.Generator().manual_seed(0)).double())[0] * 14 * scales
    trainer = trainer_of(sae, 1500, schedule={"decay_from": 0.5}, bypass={"rank": 2})
    for _ in range(1500):
        trainer.step(x)
    centered = x - x.mean(0)
    lowest = torch.linalg.svdvals(centered)[2:].square().sum()
    error = (x - sae(x)).detach().square().sum()
    assert 1 <= error.item() / lowest.item() < 1.05
    assert not trainer.tokens_since_fired.eq(0).any()


@pytest.mark.parametrize("optimizer", [{"kind": "adam", "sparse": True}, "sign_sgd"])
def test_every_optimizer_and_resampling_move_it_in_whole(
    make_sae: Make, batches: Callable[..., list[Tensor]], optimizer: Any
):
    sae = with_bypass(make_sae())
    before = sae.bypass_out.detach().clone()
    trainer = trainer_of(sae, optimizer=optimizer, dead_latents={"kind": "resample", "every": 6}, bypass={})
    for x in batches(13):
        trainer.step(x)
    assert (sae.bypass_out != before).all()


def test_a_frozen_bias_leaves_it_and_frozen_features_freeze_it(make_sae: Make, batches: Callable[..., list[Tensor]]):
    for frozen, moves in (("b_dec", True), ("features", False)):
        sae = with_bypass(make_sae())
        before = sae.bypass_in.detach().clone()
        trainer_of(sae, frozen=frozen, bypass={}).step(batches(1)[0])
        assert torch.equal(sae.bypass_in, before) != moves


def test_a_rank_beyond_the_width_is_refused():
    with pytest.raises(UserError, match=r"bypass\.rank = 8 is more than the 7 dimensions"):
        initial_sae(7, TrainConfig(d_sae=64, k=2), VariantConfig.model_validate({"bypass": {"rank": 8}}), seed=0)


@pytest.mark.parametrize("preprocessing", ["raw", "pca", "ln_center"])
def test_its_file_brings_it_back_and_is_measured_with_it(
    preprocessing: str, make: Any, run: Any, rows: Any, tmp_path: Path
):
    saved = replace(plain := make("topk", preprocessing), sae=with_bypass(plain.sae))
    save_sae(saved, tmp_path / "one.safetensors")
    back = load_sae(tmp_path / "one.safetensors")
    x = torch.from_numpy(saved.preprocess.apply(rows))
    assert torch.equal(back.sae(x), saved.sae(x))
    assert "bypass of rank 3" in repr(back.sae)
    with torch.no_grad():
        x_hat = saved.preprocess.restore(back.sae(x).numpy(), rows)
    errors = np.square(rows.astype(np.float64) - x_hat).sum(1)
    found = measure(back, ArrayRows(rows, block_rows=64))
    assert found.mse == pytest.approx(errors.mean(), rel=1e-5)
    assert found.dead_total == measure(plain, ArrayRows(rows, block_rows=64)).dead_total


def test_half_a_bypass_is_a_damaged_file(make: Any, tmp_path: Path):
    saved = make("topk", "raw")
    saved.sae.register_parameter("bypass_in", torch.nn.Parameter(torch.zeros(24, 2)))
    try:
        save_sae(saved, tmp_path / "one.safetensors")
    finally:
        saved.sae.bypass_in = None
    with pytest.raises(UserError, match="lacks bypass_out"):
        load_sae(tmp_path / "one.safetensors")


def test_what_the_latents_capture_of_the_mean_leaves_it_out(make_sae: Make):
    x = (3 + np.random.default_rng(0).standard_normal((500, 7))).astype(np.float32)
    sae, rows = make_sae().float(), ArrayRows(x, block_rows=64)
    space = Space(Preprocessing(np.zeros(7)), rows, "cpu")
    found = evaluate([sae, with_bypass(sae)], space.samples(rows, 500, 99), space)
    assert found[0].feature_capture == pytest.approx(found[1].feature_capture, rel=1e-5)
    assert found[0].mse != pytest.approx(found[1].mse, rel=1e-2)


@pytest.mark.parametrize("preprocessing", ["center_median", "pca", "partial_pca"])
def test_folding_takes_it_along(preprocessing: str, make: Any, run: Any, rows: Any):
    saved = replace(plain := make("topk", preprocessing), sae=with_bypass(plain.sae))
    _, expected = run(saved, rows)
    _, found = run(fold_preprocess(saved), rows)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("library", FORMATS)
def test_no_other_library_has_a_place_for_it(library: str, make: Any, tmp_path: Path):
    saved = SavedSAE(with_bypass(make("topk", "raw").sae), Preprocessing(np.zeros(24)), {})
    with pytest.raises(UserError, match=r"adds a linear bypass .* has no place; train without `bypass`"):
        export_sae(saved, library, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
