"""Core figures: the definitions in torch, limits, massive tokens, batches; dense latents and their directions."""

import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import saelib
from saelib import UserError, evaluation
from saelib.preprocessing.transform import Preprocessing
from saelib.sae.file import SavedSAE, save_sae
from saelib.sae.model import SAE

TOKENS, D, LATENTS = 500, 6, 20
NAMES = ("explained_variance", "mse", "cossim", "l2_ratio", "relative_reconstruction_bias", "l0", "freq_over_1_percent")


def batch(seed: int = 0, offset: float = 2.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Activations, reconstructions and codes; latents fire at rates from 0 to 1."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((TOKENS, D)) + offset
    codes = rng.exponential(size=(TOKENS, LATENTS)) * (rng.random((TOKENS, LATENTS)) < np.linspace(0, 1, LATENTS) ** 3)
    return x, 0.8 * x + 0.3 * rng.standard_normal((TOKENS, D)), codes


def measured(*arrays: np.ndarray) -> evaluation.CoreReport:
    meter = evaluation.CoreMeter()
    meter.add(*arrays)
    return meter.metrics()


def test_figures_are_the_definitions_of_sae_bench() -> None:
    """Written with torch, one batch at once, as the benchmark's names are defined."""
    x, x_hat, codes = (torch.from_numpy(one) for one in batch())
    error = (x - x_hat).pow(2).sum(-1)
    density = (codes > 0).double().mean(0)
    expected = {
        "explained_variance": 1 - error.sum() / (x - x.mean(0)).pow(2).sum(),
        "mse": error.mean(),
        "cossim": torch.nn.functional.cosine_similarity(x, x_hat).mean(),
        "l2_ratio": (x_hat.norm(dim=-1) / x.norm(dim=-1)).mean(),
        "relative_reconstruction_bias": x_hat.norm(dim=-1).pow(2).mean() / (x * x_hat).sum(-1).mean(),
        "l0": (codes != 0).sum(-1).double().mean(),
        "freq_over_1_percent": (density > 0.01).double().mean(),
    }
    found = measured(*batch()).all
    assert {name: getattr(found, name) for name in NAMES} == pytest.approx({n: v.item() for n, v in expected.items()})
    np.testing.assert_allclose(found.firing_rates, density)


def test_a_perfect_reconstruction_and_one_that_shrinks() -> None:
    x, _, codes = batch()
    perfect = measured(x, x, codes).all
    assert [getattr(perfect, name) for name in NAMES[:5]] == pytest.approx([1, 0, 1, 1, 1])
    half = measured(x, x / 2, codes).all
    assert (half.cossim, half.l2_ratio, half.relative_reconstruction_bias) == pytest.approx((1, 0.5, 0.5))
    mean = measured(x, np.repeat(x.mean(0, keepdims=True), TOKENS, axis=0), codes).all
    assert mean.explained_variance == pytest.approx(0)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.lists(st.integers(0, TOKENS), max_size=4))
def test_batches_and_sparse_codes_change_nothing(seed: int, cuts: list[int]) -> None:
    arrays = batch(seed)
    whole = measured(*arrays)
    meter = evaluation.CoreMeter(whole.massive_norm)
    edges = [0, *sorted(cuts), TOKENS]
    for start, stop in pairwise(edges):
        if stop > start:
            x, x_hat, codes = (one[start:stop] for one in arrays)
            meter.add(x, torch.from_numpy(x_hat), sparse.csc_array(codes))
    for name in NAMES:
        assert getattr(meter.metrics().all, name) == pytest.approx(getattr(whole.all, name), rel=1e-9)


def test_massive_tokens_stand_apart() -> None:
    """Ten massive tokens, reconstructed well, hide from all figures that the others are not reconstructed at all."""
    x, _, codes = batch(offset=0)
    x[:10] *= 1000
    x_hat = np.where(np.arange(TOKENS)[:, None] < 10, x, 0)
    found = measured(x, x_hat, codes)
    assert found.all.explained_variance > 0.999
    assert found.typical.explained_variance == pytest.approx(0, abs=0.01)
    assert found.typical.tokens == TOKENS - 10
    without = measured(x[10:], x_hat[10:], codes[10:])
    for name in NAMES[:4]:
        assert getattr(found.typical, name) == pytest.approx(getattr(without.all, name))
    np.testing.assert_allclose(found.typical.firing_rates, without.all.firing_rates)


def test_the_histogram_counts_every_latent_once() -> None:
    found = measured(*batch()).all
    histogram = found.histogram()
    assert histogram.dead == (found.firing_rates == 0).sum() > 0
    assert histogram.dead + histogram.counts.sum() == LATENTS
    assert histogram.counts[-1] == (found.firing_rates >= 10**-0.5).sum()
    assert "firing_rates" not in repr(found)


def test_tokens_of_length_zero_have_no_direction() -> None:
    x = np.array([[2.0, 0], [0, 0], [0, 1]])
    found = measured(x, [[1.0, 0], [3, 3], [0, 0]], np.ones((3, 1))).all
    assert found.cossim == pytest.approx(0.5)
    assert found.l2_ratio == pytest.approx(0.25)
    constant = measured(np.ones((4, 2)), np.zeros((4, 2)), np.ones((4, 1))).all
    assert math.isnan(constant.explained_variance)
    assert math.isnan(constant.relative_reconstruction_bias)


def test_saes_of_either_kind_are_run_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("saelib.evaluation.encode.ROWS", 64)
    x = batch()[0].astype(np.float32)
    ours = SimpleNamespace(encode=lambda rows: np.maximum(rows, 0), reconstruct=lambda rows: np.maximum(rows, 0) / 2)
    theirs = SimpleNamespace(encode=lambda rows: rows.relu(), decode=lambda codes: codes / 2)
    codes = np.maximum(x, 0)
    expected = measured(x[:300], codes[:300] / 2, codes[:300]).all
    for sae in (ours, theirs):
        found = evaluation.core_metrics(x, sae, tokens=300).all
        assert [getattr(found, name) for name in NAMES] == pytest.approx([getattr(expected, name) for name in NAMES])
        sparse_codes = evaluation.sparse_codes(x, sae, tokens=300)
        assert sparse_codes.nnz == (codes[:300] > 0).sum()
        np.testing.assert_array_equal(sparse_codes.toarray(), codes[:300])
    with pytest.raises(UserError, match=r"got 'sae\.safetensors' as the SAE; should be one from saelib\.load_sae"):
        evaluation.core_metrics(x, "sae.safetensors")


def test_figures_of_a_saved_sae_are_those_of_evaluate_sae(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    W_enc = torch.randn(D, LATENTS, generator=generator) / D**0.5
    tensors = {"W_enc": W_enc, "W_dec": W_enc.T.clone(), "b_enc": torch.zeros(LATENTS), "b_dec": torch.zeros(D)}
    x = batch()[0].astype(np.float32)
    preprocessing = Preprocessing(x.mean(0, dtype=np.float64), (1 / x.std(0)).astype(np.float32))
    save_sae(SavedSAE(SAE("topk", tensors, 3), preprocessing, {}), tmp_path / "sae.safetensors")
    np.save(tmp_path / "acts.npy", x)
    sae = saelib.load_sae(tmp_path / "sae.safetensors")
    found = evaluation.core_metrics(tmp_path / "acts.npy", sae)
    expected = saelib.evaluate_sae(sae, x)
    assert found.all.explained_variance == pytest.approx(expected.variance_explained, rel=1e-5)
    assert found.all.mse == pytest.approx(expected.mse, rel=1e-5)
    assert found.all.l0 == pytest.approx(expected.l0)
    assert found.all.histogram().dead / LATENTS == expected.dead_total
    codes = evaluation.sparse_codes(saelib.open_activations(x), sae)
    np.testing.assert_array_equal(codes.toarray(), sae.encode(x))


def test_what_does_not_fit_is_said() -> None:
    x, x_hat, codes = batch()
    with pytest.raises(UserError, match=r"activations \[500, 6\], reconstructions \[500, 6\], codes \[499, 20\]"):
        measured(x, x_hat, codes[1:])
    with pytest.raises(UserError, match="activations: holds NaN or infinity"):
        measured(np.full((2, 2), np.inf), np.ones((2, 2)), np.ones((2, 2)))
    meter = evaluation.CoreMeter()
    with pytest.raises(UserError, match="there are no tokens"):
        meter.metrics()
    meter.add(x, x_hat, codes)
    with pytest.raises(UserError, match=r"d and latents are \(6, 19\); should be \(6, 20\)"):
        meter.add(x, x_hat, codes[:, 1:])


def test_dense_latents_and_the_components_they_carry() -> None:
    rng = np.random.default_rng(0)
    rotation = np.linalg.qr(rng.standard_normal((D, D)))[0]
    components, directions = rotation[:2], rng.standard_normal((40, D))
    rates = rng.uniform(0, 0.1, 40)
    rates[:3], rates[3] = (0.5, 0.9, 0.2), 0
    directions[:3] = rng.standard_normal((3, 2)) @ components
    # any basis of the same space will do
    basis = np.array([[1, 2], [0, -3]]) @ components
    found = evaluation.dense_latents(rates, directions, basis)
    assert found.latents.tolist() == [1, 0, 2]
    assert found.share == 3 / 40
    assert found.in_components == pytest.approx(1)
    unit = directions[4:] / np.linalg.norm(directions[4:], axis=1, keepdims=True)
    assert found.others_in_components == pytest.approx(np.square(unit @ components.T).sum(1).mean())
    assert found.chance_in_components == 2 / D


def test_overlap_of_random_directions_is_chance() -> None:
    rng = np.random.default_rng(1)
    directions = rng.standard_normal((4000, 16))
    found = evaluation.dense_latents(np.full(4000, 0.5), directions, rng.standard_normal((3, 16)), [0, 5])
    assert found.in_components == pytest.approx(found.chance_in_components, abs=0.01)
    assert found.in_outlier_dimensions == pytest.approx(found.chance_in_outlier_dimensions, abs=0.01)
    assert found.chance_in_outlier_dimensions == 2 / 16
    assert math.isnan(found.others_in_components)


def test_dense_latents_of_other_sizes_are_refused() -> None:
    with pytest.raises(UserError, match=r"firing_rates: has the shape \[2\]; should be \[3\]"):
        evaluation.dense_latents([0.1, 0.2], np.eye(3), np.eye(3))
    with pytest.raises(UserError, match="there is no dimension 3; should be from 0 to 2"):
        evaluation.dense_latents([0.1] * 3, np.eye(3), np.eye(3), [3])
