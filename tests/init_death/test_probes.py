"""Death predicted from probes, against counting."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.activations.rows import ArrayRows
from saelib.errors import UserError
from saelib.init_death.encoder import random_encoder, stratified_probes
from saelib.init_death.measure import measure
from saelib.init_death.probed import DeathEstimate
from saelib.init_death.probes import probe_death
from saelib.preprocessing.transform import Preprocessing
from saelib.theory.cap_law import cap_cosine, tail_mass

D, TOKENS = 48, 4000
Make = Callable[[], NDArray[np.float32]]
RAW = {"raw": Preprocessing(np.zeros(D))}


def gaussian(tokens: int = TOKENS, mean: float = 0.0, d: int = D) -> NDArray[np.float32]:
    x = np.random.default_rng(0).standard_normal((tokens, d), dtype=np.float32)
    x[:, 3] += np.float32(mean * np.sqrt(d))
    return x


def uniform() -> NDArray[np.float32]:
    return np.random.default_rng(1).uniform(-0.2, 1, (TOKENS, D)).astype(np.float32)


def low_rank() -> NDArray[np.float32]:
    """Six directions hold 99 % of the variance; a mean stands across them."""
    scales = np.sqrt(np.concatenate([np.full(6, 0.99 / 6), np.full(D - 6, 0.01 / (D - 6))]))
    return gaussian() * scales.astype(np.float32) + np.float32(0.05)


def massive() -> NDArray[np.float32]:
    """One token in 50 is a thousand times as long as the others."""
    x = gaussian(mean=1.0)
    x[::50, 7] += 7000
    return x


def clustered() -> NDArray[np.float32]:
    """Near-duplicates of 200 directions: the bars of such tokens rise and fall together."""
    centers = gaussian(200, mean=1.0)
    return (centers.repeat(TOKENS // 200, axis=0) + 0.05 * gaussian()).astype(np.float32)


def assert_close(found: DeathEstimate, counted: dict[str, float], dictionaries: int) -> None:
    """Within one point and two standard errors, of the probes and of the counted dictionaries."""
    for name, value in counted.items():
        error = np.hypot(getattr(found, f"se_{name}"), getattr(found, f"sd_{name}") / np.sqrt(dictionaries))
        assert abs(getattr(found, f"dead_{name}") - value) < 0.01 + 2 * error, name


@pytest.mark.parametrize("make", [lambda: gaussian(mean=1.5), gaussian, uniform, low_rank, massive, clustered])
@pytest.mark.parametrize(("d_sae", "k", "seeds"), [(512, 16, 8), (2048, 64, 4), (4096, 16, 4)])
def test_probes_predict_what_counting_finds(make: Make, d_sae: int, k: int, seeds: int) -> None:
    rows = ArrayRows(make(), block_rows=1000)
    preprocessings = RAW | {"centered": Preprocessing(rows.values.mean(axis=0, dtype=np.float64))}
    counted = measure(rows, preprocessings, d_sae, k, range(100, 100 + seeds))
    probed = probe_death(rows, preprocessings, probes=8192)
    for name, death in counted.preprocessings.items():
        rates = {cause: getattr(death, f"dead_{cause}").mean for cause in ("relu", "topk_only", "total")}
        assert_close(probed[name].dead(d_sae, k), rates, seeds)
        total = dict(zip(counted.curve_tokens, death.curve_total, strict=True))
        for tokens in (64, 512):
            assert_close(probed[name].dead(d_sae, k, tokens), {"total": total[tokens]}, seeds)


def test_large_dictionaries_need_no_more_probes() -> None:
    rows = ArrayRows(gaussian(1024, mean=1.0))
    counted = measure(rows, RAW, 131_072, 256, [100])["raw"].dead_total.mean
    found = probe_death(rows, RAW)["raw"].dead(131_072, 256)
    assert_close(found, {"total": counted}, 1)
    assert 0.2 < found.dead_total < 0.9


def test_isotropic_tokens_leave_the_floor() -> None:
    """(1 - k / n)^N, and with one selected latent too: where the k-th largest scatters most."""
    probed = probe_death(ArrayRows(gaussian(2048)), RAW, probes=4096)["raw"]
    for d_sae, k in ((2048, 2), (1024, 1), (64, 2)):
        death = probed.dead(d_sae, k)
        assert death.floor == pytest.approx((1 - k / d_sae) ** 2048)
        assert abs(death.dead_total - death.floor) < 0.01 + 3 * death.se_total


def test_one_token_selects_its_share_whatever_it_is() -> None:
    probed = probe_death(ArrayRows(gaussian(64, mean=5)), RAW, probes=8192)["raw"]
    for d_sae, k in ((256, 8), (100, 5), (10, 1)):
        death = probed.dead(d_sae, k, tokens=1)
        assert abs(death.dead_total - (1 - k / d_sae)) < 3 * death.se_total + 0.002
        assert abs(death.dead_relu - 0.5) < 3 * death.se_relu


def test_where_all_may_be_selected_only_relu_kills() -> None:
    probed = probe_death(ArrayRows(gaussian(mean=8)), RAW)["raw"]
    for d_sae, k in ((64, 64), (64, 40)):
        death = probed.dead(d_sae, k)
        assert death.dead_relu > 0.2
        assert death.dead_total == pytest.approx(death.dead_relu, abs=0.005)


def test_death_falls_with_tokens_and_k_and_rises_with_d_sae() -> None:
    probed = probe_death(ArrayRows(gaussian(mean=2)), RAW)["raw"]

    def total(d_sae: int, k: int, tokens: int | None = None) -> float:
        return probed.dead(d_sae, k, tokens).dead_total

    assert (np.diff([total(2048, 64, tokens) for tokens in (1, 3, 64, 100, 1000, 3999, 4000)]) < 0).all()
    assert (np.diff([total(2048, k) for k in (1, 4, 16, 64, 256)]) < 0).all()
    assert (np.diff([total(d_sae, 64) for d_sae in (128, 512, 2048, 65_536)]) > 0).all()


def batch_topk(x: NDArray[np.float32], d_sae: int, k: int, seed: int) -> float:
    """Counted: the k x tokens largest positive pre-activations of all."""
    hidden = x @ random_encoder(x.shape[1], d_sae, seed)
    bar = max(np.partition(hidden.ravel(), -k * len(x))[-k * len(x)], 0)
    return float((hidden.max(axis=0) < bar).mean() if bar > 0 else (hidden.max(axis=0) <= 0).mean())


@pytest.mark.parametrize("make", [lambda: gaussian(mean=1.5), massive, low_rank])
def test_batch_topk_has_one_bar(make: Make) -> None:
    x = make() * np.random.default_rng(5).lognormal(0, 0.5, (TOKENS, 1)).astype(np.float32)
    x = x[np.argsort(np.linalg.norm(x, axis=1))]  # so that a part of the tokens has another bar
    counted = np.mean([batch_topk(x, 1024, 32, seed) for seed in (100, 101, 102)])
    probed = probe_death(ArrayRows(x), RAW)["raw"]
    assert_close(probed.dead_batch_topk(1024, 32), {"total": float(counted)}, 3)
    first = probe_death(ArrayRows(x[:512]), RAW)["raw"].dead_batch_topk(1024, 32)
    assert probed.dead_batch_topk(1024, 32, tokens=512).dead_total == pytest.approx(first.dead_total, abs=1e-6)


def test_a_threshold_is_passed_or_not() -> None:
    x = gaussian(mean=1.5)
    probed = probe_death(ArrayRows(x), RAW, probes=500, seed=9)["raw"]
    mean = (x[:512] / np.linalg.norm(x[:512], axis=1, keepdims=True)).mean(axis=0, dtype=np.float64)
    largest = (x @ stratified_probes(mean / np.linalg.norm(mean), 500, 9).T).max(axis=0)
    for threshold in (0, 0.5, 2.0):
        assert probed.dead_below(threshold, 64).dead_total == pytest.approx((largest <= threshold).mean(), abs=1e-3)
    assert probed.dead_below(0, 64).dead_topk_only == 0


def test_scale_rotation_and_lengths_do_not_matter() -> None:
    x = gaussian(mean=1.5)
    expected = probe_death(ArrayRows(x), RAW)["raw"].dead(2048, 64)
    longer = x * np.random.default_rng(3).uniform(0.1, 10, (TOKENS, 1)).astype(np.float32)
    assert probe_death(ArrayRows(longer), RAW)["raw"].dead(2048, 64).dead_total == pytest.approx(
        expected.dead_total, abs=1e-4
    )
    turn = np.linalg.qr(np.random.default_rng(2).standard_normal((D, D)))[0].astype(np.float32)
    back = {"back": Preprocessing(np.zeros(D), turn)}
    assert probe_death(ArrayRows(x @ turn.T), back)["back"].dead(2048, 64).dead_total == pytest.approx(
        expected.dead_total, abs=1e-4
    )


def test_blocks_and_threads_do_not_change_the_result() -> None:
    x = gaussian(3000, mean=1.5)
    one = probe_death(ArrayRows(x, block_rows=1024), RAW | {"mean": Preprocessing(np.ones(D))}, probes=600)
    two = probe_death(ArrayRows(x, block_rows=1024), RAW | {"mean": Preprocessing(np.ones(D))}, probes=600, threads=2)
    odd = probe_death(ArrayRows(x, block_rows=77), RAW, probes=600)
    for name, probed in one.items():
        assert np.array_equal(probed.largest_cosine, two[name].largest_cosine)
        assert np.array_equal(probed.counts, two[name].counts)
    np.testing.assert_allclose(odd["raw"].largest_cosine, one["raw"].largest_cosine, atol=1e-6)


def test_tokens_at_the_center_select_nothing() -> None:
    x = gaussian(1000, mean=2)
    with_zeros = np.concatenate([np.zeros((24, D), np.float32), x])
    few = probe_death(ArrayRows(with_zeros), RAW)["raw"]
    assert few.dead(512, 16, tokens=16).dead_total == 1
    assert few.dead(512, 16).dead_total == pytest.approx(
        probe_death(ArrayRows(x), RAW)["raw"].dead(512, 16).dead_total, abs=2e-3
    )


def test_standard_errors_are_those_of_other_probes() -> None:
    x = gaussian(1000, mean=1.5)
    found = [probe_death(ArrayRows(x), RAW, probes=256, seed=seed)["raw"].dead(512, 16) for seed in range(40)]
    spread = np.std([death.dead_total for death in found], ddof=1)
    assert spread == pytest.approx(np.mean([death.se_total for death in found]), rel=0.4)


def test_a_shared_mean_costs_no_precision() -> None:
    """Independent probes would be half as precise; the mean of the estimates is the same."""
    x = gaussian(1000, mean=3.0)
    found = [probe_death(ArrayRows(x), RAW, probes=256, seed=seed)["raw"].dead(512, 16) for seed in range(40)]
    independent = [
        float((probed.largest_cosine[-1] < cap_cosine(16 / 512, D)).mean())
        for probed in (probe_death(ArrayRows(x), RAW, probes=1, seed=seed)["raw"] for seed in range(600))
    ]
    rate = float(np.mean([death.dead_total for death in found]))
    alone = np.sqrt(rate * (1 - rate) / 256)
    assert np.std([death.dead_total for death in found], ddof=1) < 0.6 * alone
    assert np.mean([death.se_total for death in found]) < 0.6 * alone
    assert abs(rate - np.mean(independent)) < 3 * np.sqrt(rate * (1 - rate) / 600)


@pytest.mark.parametrize("d", [2, 3, 40])
def test_probes_are_uniform_on_the_sphere_and_even_along_a_direction(d: int) -> None:
    direction = np.linalg.qr(np.random.default_rng(0).standard_normal((d, d)))[0][0]
    units = stratified_probes(direction, 4000, seed=1).astype(np.float64)
    np.testing.assert_allclose(np.linalg.norm(units, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(units.mean(axis=0), 0, atol=4 / np.sqrt(4000 * d))
    np.testing.assert_allclose(units.T @ units / 4000, np.eye(d) / d, atol=4 / np.sqrt(4000 * d))
    below = 1 - tail_mass(units @ direction, d)  # the area of the sphere below each probe
    assert (np.abs(below * 4000 - np.arange(4000) - 0.5) < 0.51).all()


def test_dictionaries_spread_as_predicted() -> None:
    """Up to twice as much, with a mean that all tokens share."""
    rows = ArrayRows(gaussian(2000, mean=2.0))
    found = probe_death(rows, RAW, probes=8192)["raw"].dead(1024, 4)
    counted = measure(rows, RAW, 1024, 4, range(60))["raw"].dead_total
    assert 0.7 < counted.sd / found.sd_total < 2.1


def test_progress_counts_all_tokens() -> None:
    seen: list[int] = []
    probe_death(
        ArrayRows(gaussian(1000), block_rows=300), RAW, probes=8, progress=lambda amount, note="": seen.append(amount)
    )
    assert seen == [300, 300, 300, 100]


def test_bad_input_gets_one_sentence() -> None:
    rows = ArrayRows(gaussian(100), "x")
    probed = probe_death(rows, RAW, probes=8)["raw"]
    with pytest.raises(UserError, match="k must lie between 1 and d_sae"):
        probed.dead(8, 9)
    with pytest.raises(UserError, match="over 100 tokens"):
        probed.dead(8, 2, tokens=101)
    with pytest.raises(UserError, match="0 or more"):
        probed.dead_below(-1, 8)
    with pytest.raises(UserError, match="was fitted on 3"):
        probe_death(rows, {"other": Preprocessing(np.zeros(3))})
    with pytest.raises(UserError, match="leaves 1 dimension"):
        probe_death(rows, {"line": Preprocessing(np.zeros(D), np.ones((D, 1), np.float32))})
    with pytest.raises(UserError, match="no tokens"):
        probe_death(ArrayRows(gaussian(0)), RAW)
    bad = gaussian(10)
    bad[7, 1] = np.nan
    with pytest.raises(UserError, match="row 7 holds NaN"):
        probe_death(ArrayRows(bad), RAW)
    bad[7] = 1e31
    with pytest.raises(UserError, match="row 7 is longer than 1e"):
        probe_death(ArrayRows(bad), RAW)


@pytest.mark.parametrize("scale", [1e-28, 1e-20, 1e20, 1e27])
def test_any_unit_will_do(scale: float) -> None:
    x = gaussian(500, mean=1.5)
    expected = probe_death(ArrayRows(x), RAW, probes=512)["raw"]
    found = probe_death(ArrayRows(x * np.float32(scale)), RAW, probes=512)["raw"]
    np.testing.assert_allclose(found.largest_cosine, expected.largest_cosine, atol=1e-5)


def test_tokens_too_short_for_float32_count_as_zeros() -> None:
    assert probe_death(ArrayRows(gaussian(64) * np.float32(1e-38)), RAW, probes=64)["raw"].dead(64, 8).dead_total == 1


@pytest.mark.parametrize("make", [lambda: gaussian(mean=3.0), massive, lambda: gaussian(mean=1e4)])
def test_centers_share_products_and_see_what_each_would_see_alone(make: Make) -> None:
    """The third has a mean so large that the tokens near its center need products of their own."""
    x = make()
    x[5] = x.mean(0)
    kinds = {
        "raw": Preprocessing(np.zeros(D)),
        "mean": Preprocessing(x.mean(0, dtype=np.float64)),
        "median": Preprocessing(np.median(x, axis=0).astype(np.float64)),
    }
    together = probe_death(ArrayRows(x, block_rows=1000), kinds, probes=300)
    for name, kind in kinds.items():
        alone = probe_death(ArrayRows(x, block_rows=1000), {name: kind}, probes=300)[name]
        np.testing.assert_allclose(together[name].largest_cosine, alone.largest_cosine, atol=3e-5)
        for d_sae, k in ((512, 16), (8192, 64)):
            a, b = together[name].dead(d_sae, k), alone.dead(d_sae, k)
            assert a.dead_total == pytest.approx(b.dead_total, abs=2e-3), name
            assert a.dead_relu == pytest.approx(b.dead_relu, abs=4e-3), name


def test_tokens_much_nearer_to_their_center_than_to_others_keep_their_directions() -> None:
    x = gaussian()
    x[::2] *= 1e-3
    x[::2, 3] += 1000
    far = {"far": Preprocessing(np.where(np.arange(D) == 3, 1000.0, 0.0))}
    together, alone = (probe_death(ArrayRows(x), kinds, probes=300)["far"] for kinds in (RAW | far, far))
    np.testing.assert_allclose(together.largest_cosine, alone.largest_cosine, atol=1e-5)
