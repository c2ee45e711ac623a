"""The measurement agrees with counting by hand in float64."""

import subprocess
import sys

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.activations.rows import ArrayRows
from saelib.errors import UserError
from saelib.init_death import product, trial
from saelib.init_death.encoder import random_encoder
from saelib.init_death.kernels import NEVER
from saelib.init_death.measure import measure
from saelib.init_death.near import nothing_near
from saelib.init_death.result import InitDeath
from saelib.preprocessing.transform import Preprocessing

D, D_SAE, TOKENS = 12, 96, 300
SEEDS = [4, 9]


class OffsetRows(ArrayRows):
    """Float16 values and an offset, as in a store."""

    def __init__(self, values: NDArray[np.floating], offset: NDArray[np.floating], block_rows: int = 64) -> None:
        super().__init__(values.astype(np.float16), "offset rows", block_rows)
        self.offset = offset.astype(np.float32)

    def exact(self) -> NDArray[np.float64]:
        return self.values.astype(np.float64) + self.offset


def activations(mean: float = 3.0, tokens: int = TOKENS) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((tokens, D)) * np.geomspace(2, 0.2, D) + mean * rng.standard_normal(D)
    return x.astype(np.float32)


def preprocessings(x: NDArray[np.floating]) -> dict[str, Preprocessing]:
    """Makes a preprocessing of each kind, unfitted, because any constants will do."""
    rng = np.random.default_rng(1)
    mean = x.mean(axis=0, dtype=np.float64)
    matrix = rng.standard_normal((D, 7)).astype(np.float32)
    return {
        "diagonal": Preprocessing(mean, np.geomspace(1, 9, D).astype(np.float32)),
        "raw": Preprocessing(np.zeros(D)),
        "near": Preprocessing(mean + 0.3 * rng.standard_normal(D)),
        "matrix": Preprocessing(mean + 1, matrix),
        "mean": Preprocessing(mean),
        "layernorm": Preprocessing(rng.standard_normal(D), token_norm="layernorm"),
        "rescale": Preprocessing(np.zeros(D), token_norm="sqrt_d"),
    }


def pre_activations(x: NDArray[np.floating], preprocess: Preprocessing, seed: int) -> NDArray[np.float64]:
    values = x.astype(np.float64)
    if preprocess.token_norm == "layernorm":
        values = values - values.mean(1, keepdims=True)
        values = values / np.sqrt((values**2).mean(1, keepdims=True) + 1e-5)
    if preprocess.token_norm == "sqrt_d":
        values = values * np.sqrt(D) / np.linalg.norm(values, axis=1, keepdims=True)
    values = values - preprocess.center
    if preprocess.scale is not None:
        values = values @ (preprocess.scale if preprocess.scale.ndim == 2 else np.diag(preprocess.scale))
    return values @ random_encoder(values.shape[1], D_SAE, seed)


def dead_by_hand(hidden: NDArray[np.float64], k: int) -> tuple[float, float]:
    """Counts latents dead by ReLU and in total."""
    selected = np.zeros(hidden.shape, dtype=bool)
    np.put_along_axis(selected, np.argsort(-hidden, axis=1)[:, :k], True, axis=1)
    return 1 - (hidden > 0).any(0).mean(), 1 - (selected & (hidden > 0)).any(0).mean()


@pytest.mark.parametrize("k", [1, 5, 50, D_SAE])
def test_every_preprocessing_is_counted_as_by_hand(k: int) -> None:
    x = activations()
    result = measure(ArrayRows(x, block_rows=128), preprocessings(x), D_SAE, k, SEEDS)
    assert list(result.preprocessings) == list(preprocessings(x))
    for name, preprocess in preprocessings(x).items():
        death = result.preprocessings[name]
        expected = np.array([dead_by_hand(pre_activations(x, preprocess, seed), k) for seed in SEEDS])
        np.testing.assert_allclose(death.dead_relu.per_seed, expected[:, 0], atol=1e-12, err_msg=name)
        np.testing.assert_allclose(death.dead_total.per_seed, expected[:, 1], atol=1e-12, err_msg=name)
        np.testing.assert_allclose(death.dead_topk_only.per_seed, expected[:, 1] - expected[:, 0], atol=1e-12)


def test_the_curve_is_what_fewer_tokens_would_have_given() -> None:
    x = activations()
    result = measure(ArrayRows(x), preprocessings(x), D_SAE, 5, SEEDS)
    assert result.curve_tokens == (1, 2, 4, 8, 16, 32, 64, 128, 256, 300)
    for name, preprocess in preprocessings(x).items():
        death = result.preprocessings[name]
        for i, tokens in enumerate(result.curve_tokens):
            by_hand = [dead_by_hand(pre_activations(x[:tokens], preprocess, seed), 5) for seed in SEEDS]
            assert (death.curve_relu[i], death.curve_total[i]) == pytest.approx(tuple(np.mean(by_hand, axis=0)))
        assert (np.diff(death.curve_relu) <= 0).all()
        assert (np.diff(death.curve_total) <= 0).all()
        assert death.curve_total[-1] == pytest.approx(death.dead_total.mean)


@pytest.mark.parametrize("tokens", [1, 2, 64, 65])
def test_the_curve_ends_at_the_number_of_tokens(tokens: int) -> None:
    curve = measure(ArrayRows(activations(tokens=tokens)), {"raw": Preprocessing(np.zeros(D))}, 8, 2, [0]).curve_tokens
    assert curve[0] == 1
    assert curve[-1] == tokens
    assert (np.diff(curve) > 0).all()


def test_one_pass_gives_what_separate_passes_give() -> None:
    x = activations()
    together = measure(ArrayRows(x), preprocessings(x), D_SAE, 5, SEEDS)
    for name, preprocess in preprocessings(x).items():
        for i, seed in enumerate(SEEDS):
            alone = measure(ArrayRows(x), {name: preprocess}, D_SAE, 5, [seed]).preprocessings[name]
            assert alone.dead_total.per_seed[0] == together.preprocessings[name].dead_total.per_seed[i]
            assert alone.dead_relu.per_seed[0] == together.preprocessings[name].dead_relu.per_seed[i]


def test_blocks_and_threads_have_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    x = activations()
    expected = measure(ArrayRows(x), preprocessings(x), D_SAE, 5, SEEDS)
    assert measure(ArrayRows(x), preprocessings(x), D_SAE, 5, SEEDS, threads=3) == expected
    for block_rows in (1, 37, 4096):
        for threads in (1, 3):
            found = measure(ArrayRows(x, block_rows=block_rows), preprocessings(x), D_SAE, 5, SEEDS, threads)
            assert found == expected
    # Nor where BLAS stands in for the kernels.
    monkeypatch.setattr(trial, "make_product", product.BlasProduct)
    for at_a_time in (1, 50):
        monkeypatch.setattr(product, "BLAS_VALUES", at_a_time * D_SAE)
        assert measure(ArrayRows(x), preprocessings(x), D_SAE, 5, SEEDS) == expected


@pytest.mark.parametrize(("gamma", "left_out"), [(1e3, ""), (1e6, "raw")])
def test_rows_with_an_offset_keep_their_signal(gamma: float, left_out: str) -> None:
    """Centered values keep precision at any mean; raw ones only while float32 can hold mean and signal together."""
    small = activations(mean=0)
    offset = gamma * np.linalg.norm(small.std(0)) * random_encoder(D, 1, seed=1)[:, 0]
    rows = OffsetRows(small, offset)
    fitted = {name: p for name, p in preprocessings(rows.exact()).items() if name != left_out}
    result = measure(rows, fitted, D_SAE, 5, SEEDS)
    for name, preprocess in fitted.items():
        by_hand = [dead_by_hand(pre_activations(rows.exact(), preprocess, seed), 5) for seed in SEEDS]
        death = result.preprocessings[name]
        np.testing.assert_allclose(death.dead_relu.per_seed, np.array(by_hand)[:, 0], atol=1e-12, err_msg=name)
        np.testing.assert_allclose(death.dead_total.per_seed, np.array(by_hand)[:, 1], atol=1e-12, err_msg=name)


def test_shifts_are_exact() -> None:
    def first_positive(delta: list[float], tokens: list[list[float]]) -> int:
        ones = np.ones((len(delta), 1), np.float32)
        one = trial.Trial(ones, np.array([delta], dtype=np.float64), k=1)
        x = np.array(tokens, np.float32)
        one.add(x, nothing_near(1, x), first_token=0)
        return one.first_positive[0, 0]

    assert first_positive([1000.0], [[-1000.1], [-999.9]]) == 1
    # sums of large numbers that leave 1, or -1: single precision loses them
    for seed in range(10):
        large = np.random.default_rng(seed).integers(-(2**24), 2**24, 200).astype(float).tolist()
        zeros = [[0.0] * 201]
        assert first_positive([*large, 1 - sum(large)], zeros) == 0
        assert first_positive([*large, -1 - sum(large)], zeros) == NEVER


def test_tokens_that_select_nothing_leave_all_features_dead() -> None:
    result = measure(ArrayRows(np.zeros((50, D), np.float32)), {"raw": Preprocessing(np.zeros(D))}, 32, 4, [0])
    death = result.preprocessings["raw"]
    assert (death.dead_relu.mean, death.dead_topk_only.mean, death.dead_total.mean) == (1, 0, 1)


def test_one_direction_leaves_k_features_on_each_side() -> None:
    """In one dimension the unit columns are +1 or -1, so half the latents tie on every token."""
    x = np.random.default_rng(0).standard_normal((500, 1)).astype(np.float32)
    death = measure(ArrayRows(x), {"raw": Preprocessing(np.zeros(1))}, 200, 8, [0]).preprocessings["raw"]
    assert death.dead_relu.mean == 0
    assert death.dead_total.mean == pytest.approx(1 - 2 * 8 / 200)


def test_encoder_columns_are_uniform_on_the_sphere() -> None:
    w = random_encoder(50, 40_000, seed=0).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(w, axis=0), 1, rtol=1e-5)
    np.testing.assert_allclose(w @ w.T / w.shape[1], np.eye(50) / 50, atol=5e-4)
    # fourth moment of a coordinate on the sphere: 3 / (d (d + 2)); normalized uniform weights have 1.8 for the 3
    np.testing.assert_allclose((w**4).mean() * 50 * 52, 3, rtol=0.02)


def test_encoders_differ_between_seeds_only() -> None:
    assert (random_encoder(5, 7, 1) == random_encoder(5, 7, 1)).all()
    assert (random_encoder(5, 7, 1) != random_encoder(5, 7, 2)).all()


@pytest.mark.parametrize("row", [0, 217])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_named_by_row(row: int, value: float) -> None:
    x = activations()
    x[row, 3] = value
    with pytest.raises(UserError, match=f"layer x: row {row} holds NaN"):
        measure(ArrayRows(x, "layer x", block_rows=100), {"raw": Preprocessing(np.zeros(D))}, 8, 2, [0])


def measure_wrongly(**changes: object) -> InitDeath:
    arguments = {"rows": ArrayRows(activations(), "layer x"), "preprocessings": {"raw": Preprocessing(np.zeros(D))}}
    return measure(**(arguments | {"d_sae": 8, "k": 2, "seeds": [0]} | changes))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"k": 0}, "layer x: k = 0, d_sae = 8"),
        ({"k": 9}, "layer x: k = 9, d_sae = 8"),
        ({"seeds": []}, "layer x: .*at least one seed"),
        ({"preprocessings": {}}, "layer x: .*one preprocessing"),
        ({"preprocessings": {"zscore": Preprocessing(np.zeros(D + 1))}}, "layer x: .* 12 .*'zscore' was fitted on 13"),
        ({"rows": ArrayRows(np.zeros((0, D)), "layer y")}, "layer y: holds no tokens"),
    ],
)
def test_impossible_measurements_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        measure_wrongly(**changes)


def test_importing_compiles_nothing() -> None:
    modules = "saelib.init_death.measure, saelib.init_death.probes, saelib.init_death.result"
    code = f"import sys, {modules}; sys.exit(any(m in sys.modules for m in ('numba', 'torch', 'zarr')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
