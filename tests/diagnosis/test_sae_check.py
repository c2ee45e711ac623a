"""Faults of a given SAE are told apart: another layer, a normalization missing or applied twice, dead latents."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from saelib.activations.rows import ArrayRows
from saelib.config import TrainConfig, VariantConfig
from saelib.diagnosis.sae_check import SAEFindings, check_sae
from saelib.errors import UserError
from saelib.preprocessing.transform import Preprocessing, layer_norm
from saelib.sae.file import SavedSAE, load_sae
from saelib.sae.model import SAE
from saelib.sae.origin import Origin, origin_of
from saelib.stats import compute_stats
from saelib.train.start import LayerData, start_sweep
from saelib.train.sweep import Destination, Subject
from saelib.train.training import train_from_store

D_IN, D_SAE, K, TOKENS = 32, 96, 4, 6000
Layer = NDArray[np.float32]
Train = Callable[..., SavedSAE]


@cache
def layer(seed: int = 0) -> Layer:
    """Sums of three of 48 features, of lengths that differ, about a mean that is longer than they are."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((48, D_IN)) / np.sqrt(D_IN)
    codes = np.zeros((TOKENS, 48))
    active = rng.random((TOKENS, 48)).argsort(axis=1)[:, :3]
    np.put_along_axis(codes, active, rng.uniform(2, 6, (TOKENS, 3)), axis=1)
    codes *= rng.lognormal(0, 0.5, (TOKENS, 1))
    return (codes @ features + 2 * rng.standard_normal(D_IN)).astype(np.float32)


def centered(x: Layer) -> Layer:
    return (x - compute_stats(ArrayRows(x)).arrays["center_median"]).astype(np.float32)


def at_length(x: Layer, length: float) -> Layer:
    return length * x / np.linalg.norm(x, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Train:
    """Gives an SAE that was trained on rows, as its file has it; its report is dropped, as if it were a stranger's."""

    @cache
    def trained(change: Callable[[Layer], Layer], preprocessing: str, seed: int) -> SavedSAE:
        x = change(layer(seed))
        rows, heldout = ArrayRows(x[:5000]), ArrayRows(x[5000:])
        sizes = {"d_sae": D_SAE, "k": K, "batch_size": 256, "steps": 800, "record_every": 800}
        config = TrainConfig.model_validate({**sizes, "learning_rates": [3e-3]})
        variant = VariantConfig.model_validate({"preprocessing": preprocessing})
        data = LayerData(rows, heldout, compute_stats(rows).arrays)
        subject = Subject("toy", 3, "baseline")
        sweep = start_sweep(data, config, variant, subject=subject, seed=0, device="cpu", origin=Origin("toy"))
        folder = tmp_path_factory.mktemp("trained")
        train_from_store(sweep, rows, Destination(folder, "k"))
        return load_sae(folder / "weights.safetensors")

    def made(
        change: Callable[[Layer], Layer] = np.asarray, preprocessing: str = "raw", seed: int = 0, report: bool = False
    ) -> SavedSAE:
        saved = trained(change, preprocessing, seed)
        return saved if report else replace(saved, about={})

    return made


def check(saved: SavedSAE, x: Layer) -> SAEFindings:
    rows = ArrayRows(x, "rows")
    return check_sae(saved, rows, compute_stats(rows))


@pytest.mark.parametrize("preprocessing", ["raw", "center_median", "zscore", "pca", "layernorm", "rescale"])
@pytest.mark.parametrize("report", [False, True])
def test_an_sae_on_its_own_activations_fits(preprocessing: str, report: bool, train: Train) -> None:
    found = check(train(preprocessing=preprocessing, report=report), layer())
    assert found.verdict.startswith("it fits these activations: ")
    assert found.best_input is None
    assert found.unexplained < 0.5


def tenth(x: Layer) -> Layer:
    return x * np.float32(0.1)


def at_average_root(x: Layer) -> Layer:
    return x * np.float32(np.sqrt(D_IN) / np.linalg.norm(x, axis=1).mean())


def unit(x: Layer) -> Layer:
    return at_length(x, 1)


def root(x: Layer) -> Layer:
    return at_length(x, np.sqrt(D_IN))


def layer_normed(x: Layer) -> Layer:
    return layer_norm(x).astype(np.float32)


def z_scored(x: Layer) -> Layer:
    return (x - x.mean(0)) / x.std(0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (tenth, "multiplied by about "),
        (at_average_root, "which makes their average length sqrt(d_in)"),
        (unit, "rescaled to length 1, token by token"),
        (root, "rescaled to length sqrt(d_in), token by token"),
        (layer_normed, "after LayerNorm, token by token"),
        (centered, "minus their geometric median"),
        (z_scored, "minus their mean and divided by the standard deviation"),
    ],
)
def test_a_missing_normalization_is_named(change: Callable[[Layer], Layer], words: str, train: Train) -> None:
    found = check(train(change), layer())
    assert found.verdict.startswith("a normalization is missing: ")
    assert words in found.verdict
    assert found.best_input is not None
    assert found.best_unexplained < found.unexplained / 2
    if change is tenth:
        factor = float(found.best_input.removeprefix(words))
        assert factor == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    ("preprocessing", "change", "words"),
    [
        ("center_median", centered, "plus the SAE's own center"),
        ("zscore", z_scored, "without the SAE's own preprocessing"),
    ],
)
def test_a_normalization_applied_twice_is_named(
    preprocessing: str, change: Callable[[Layer], Layer], words: str, train: Train
) -> None:
    found = check(train(preprocessing=preprocessing), change(layer()))
    assert found.verdict.startswith("a normalization is applied twice: ")
    assert words in found.verdict


@pytest.mark.parametrize("preprocessing", ["raw", "center_median", "zscore"])
@pytest.mark.parametrize("report", [False, True])
def test_an_sae_of_another_layer_is_called_that(preprocessing: str, report: bool, train: Train) -> None:
    found = check(train(preprocessing=preprocessing, seed=1, report=report), layer())
    assert found.verdict.startswith("it was trained on other activations, such as another layer's")
    assert found.best_input is None
    assert ("when it was trained" in found.verdict) == report
    assert ("Its file says that it was trained on toy layer 3." in found.findings) == report


def test_a_trained_file_says_where_its_activations_come_from(train: Train) -> None:
    assert origin_of(train(report=True).about) == Origin("toy")


def test_rows_that_were_normalized_token_by_token_cannot_be_mended(train: Train) -> None:
    found = check(train(), root(layer(2)))
    assert any("All rows have the same length" in finding for finding in found.findings)


def test_dead_latents_are_counted_by_cause() -> None:
    """Latents 0-7 read the rows' dimensions, 8-11 lie far below them, and 12-15 never win."""
    rng = np.random.default_rng(0)
    x = rng.uniform(1, 2, (3000, 8)).astype(np.float32)
    W_enc = torch.cat([torch.eye(8), torch.zeros(8, 8)], dim=1)
    b_enc = torch.cat([torch.zeros(8), torch.full((4,), -1.0), torch.full((4,), 0.01)])
    tensors = {"W_enc": W_enc, "W_dec": W_enc.T.clone(), "b_enc": b_enc, "b_dec": torch.zeros(8)}
    found = check(SavedSAE(SAE("topk", tensors, 8), Preprocessing(np.zeros(8)), {}), x)
    assert (found.dead_relu, found.dead_topk_only, found.dead_total) == (0.25, 0.25, 0.5)
    assert found.unexplained == 0
    assert found.findings[0] == (
        "50.0% of its 16 latents are dead on 3,000 rows: 25.0% are never positive, 25.0% are positive and never "
        "selected."
    )


def test_an_sae_of_another_width_is_refused(train: Train) -> None:
    with pytest.raises(UserError, match=r"the SAE reads 32 dimensions, and rows has 31: another layer or another"):
        check(train(), layer()[:, :31])
