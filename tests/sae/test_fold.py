"""Folding and the other conversions keep codes and reconstructions, as an SAE written out here in float64 has them."""

from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from saelib.config.preprocessings import PreprocessingName
from saelib.errors import UserError
from saelib.sae.file import SavedSAE
from saelib.sae.fold import (
    center_input,
    fold_preprocess,
    rescale_input,
    scale_decoder,
    uncenter_input,
    unit_decoder,
)
from saelib.sae.model import SAE

Wide = NDArray[np.float64]
PREPROCESSINGS = [*get_args(PreprocessingName), "partial_pca", "active_subspace"]


def wide(value: torch.Tensor) -> Wide:
    return value.detach().double().numpy()


def in_float64(sae: SAE, z: Wide) -> tuple[Wide, Wide]:
    """Pre-activations and reconstructions of a ReLU SAE."""
    hidden_pre = (z - wide(sae.b_dec)) @ wide(sae.W_enc) + wide(sae.b_enc)
    return hidden_pre, np.maximum(hidden_pre, 0) @ wide(sae.W_dec) + wide(sae.b_dec)


def by_the_definition(saved: SavedSAE, x: Wide) -> tuple[Wide, Wide]:
    """Outputs of an SAE with its preprocessing, from the definition alone."""
    preprocess = saved.preprocess
    shift, size = np.zeros((len(x), 1)), np.ones((len(x), 1))
    if preprocess.token_norm == "layernorm":
        shift, size = x.mean(1, keepdims=True), np.sqrt(x.var(1, keepdims=True) + 1e-5)
    if preprocess.token_norm == "sqrt_d":
        size = np.linalg.norm(x, axis=1, keepdims=True) / np.sqrt(x.shape[1])
    matrix = np.eye(x.shape[1])
    if preprocess.scale is not None:
        scale = preprocess.scale.astype(np.float64)
        matrix = np.diag(scale) if scale.ndim == 1 else scale
    hidden_pre, z_hat = in_float64(saved.sae, ((x - shift) / size - preprocess.center) @ matrix)
    return hidden_pre, (z_hat @ np.linalg.pinv(matrix) + preprocess.center) * size + shift


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
def test_a_folded_sae_computes_the_same_without_its_preprocessing(preprocessing: str, make: Any, rows: Any) -> None:
    saved, x = make("relu", preprocessing), rows.astype(np.float64)
    folded = fold_preprocess(saved)
    assert not folded.preprocess.center.any()
    assert folded.preprocess.scale is None
    assert folded.preprocess.token_norm == saved.preprocess.token_norm
    wanted, got = by_the_definition(saved, x), by_the_definition(folded, x)
    np.testing.assert_allclose(got[0], wanted[0], atol=3e-6)
    np.testing.assert_allclose(got[1], wanted[1], atol=3e-5 if preprocessing != "rescale" else 1e-4)


def test_whitening_with_empty_directions_is_in_the_cases(make: Any) -> None:
    preprocess = make("relu", "pca").preprocess
    assert preprocess.d_out == preprocess.d_in - 4
    assert (make("relu", "zscore").preprocess.scale == 0).sum() == 2


def test_rounding_of_a_large_bias_does_not_reach_the_codes(make: Any, rows: Any) -> None:
    """In float32 a b_dec of 40,000 is off by up to 0.002, and a whitening magnifies that."""
    saved, x = make("relu", "pca"), rows.astype(np.float64)
    far = replace(saved, preprocess=replace(saved.preprocess, center=1000 * saved.preprocess.center))
    x = x + far.preprocess.center - saved.preprocess.center
    wanted, _ = by_the_definition(far, x)
    got, _ = by_the_definition(fold_preprocess(far), x)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_rescaled_input(make: Any, rows: Any) -> None:
    sae, x = make("relu", "raw").sae, rows.astype(np.float64)
    hidden_pre, x_hat = in_float64(sae, x)
    scaled_pre, scaled_hat = in_float64(rescale_input(sae, 0.25), 0.25 * x)
    np.testing.assert_allclose(scaled_pre, hidden_pre, atol=1e-5)
    np.testing.assert_allclose(scaled_hat, 0.25 * x_hat, atol=1e-5)


def test_scaled_decoder(make: Any, rows: Any) -> None:
    sae, x = make("relu", "raw").sae, rows.astype(np.float64)
    factor = torch.linspace(-0.5, 2, 64)
    hidden_pre, _ = in_float64(sae, x)
    scaled_pre, scaled_hat = in_float64(scale_decoder(sae, factor), x)
    np.testing.assert_array_equal(scaled_pre, hidden_pre)
    wanted = np.maximum(hidden_pre, 0) * wide(factor) @ wide(sae.W_dec) + wide(sae.b_dec)
    np.testing.assert_allclose(scaled_hat, wanted, atol=1e-5)


@pytest.mark.filterwarnings("error")
def test_weights_that_float32_cannot_hold_are_refused(make: Any) -> None:
    """A file of infinities would load nowhere."""
    sae = make("relu", "raw").sae
    with pytest.raises(UserError, match=r"cannot be converted: W_enc would hold numbers too large for float32"):
        rescale_input(sae, 1e-40)


def test_input_that_is_not_centered(make: Any, rows: Any) -> None:
    sae, x = make("relu", "raw").sae, rows.astype(np.float64)
    hidden_pre, _ = in_float64(sae, x)
    other = uncenter_input(sae)
    np.testing.assert_allclose(x @ wide(other.W_enc) + wide(other.b_enc), hidden_pre, atol=1e-5)
    np.testing.assert_allclose(in_float64(center_input(other), x)[0], hidden_pre, atol=1e-5)


def test_unit_decoder_keeps_reconstructions(make: Any, rows: Any) -> None:
    sae, x = make("relu", "raw").sae, rows.astype(np.float64)
    with torch.no_grad():
        sae.W_dec[5] = 0
    hidden_pre, x_hat = in_float64(sae, x)
    unit = unit_decoder(sae)
    np.testing.assert_allclose(unit.W_dec.detach().norm(dim=1), 1, atol=1e-6)
    unit_pre, unit_hat = in_float64(unit, x)
    np.testing.assert_allclose(unit_hat, x_hat, atol=1e-5)
    np.testing.assert_allclose(unit_pre, hidden_pre * np.linalg.norm(wide(sae.W_dec), axis=1), atol=1e-5)


def test_conversions_leave_the_original_alone(make: Any) -> None:
    saved = make("jumprelu", "pca")
    before = {name: value.clone() for name, value in saved.sae.state_dict().items()}
    fold_preprocess(saved), rescale_input(saved.sae, 2.0), unit_decoder(saved.sae), uncenter_input(saved.sae)
    for name, value in saved.sae.state_dict().items():
        assert torch.equal(value, before[name])
