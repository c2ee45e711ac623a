"""SAELens loads the benchmark's data as its own synthetic model, and draws the same distribution.

`make test-interop` installs it.
"""

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.peers import python_of
from saelib.config.synthetic import BenchmarkDataConfig
from saelib.synthetic import make_data
from saelib.synthetic.saelens import write_synthetic_model

pytestmark = pytest.mark.interop

TOKENS = 200_000


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    """Sums over samples of the small edition at gamma 5: ours, and those of SAELens."""
    python = python_of("saelens")
    if python is None:
        pytest.skip("saelens is not installed; make test-interop installs it")
    data = make_data(BenchmarkDataConfig(edition="small", gamma=5.0), seed=42)
    folder = tmp_path_factory.mktemp("model")
    write_synthetic_model(data, folder)
    np.save(folder / "features.npy", data.features)
    script = Path(__file__).parent / "peers" / "sample_saelens.py"
    done = subprocess.run([python, script, folder, str(TOKENS)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    ours: dict[str, Any] = {}
    rng = np.random.default_rng(0)
    for _ in range(TOKENS // 2000):
        x, sparse = data.sample_with_codes(2000, rng)
        codes = sparse.dense(len(data.features)).astype(np.float64)
        present = (codes > 0).astype(np.float64)
        batch = {
            "x": x.sum(0, dtype=np.float64),
            "x2": (x.astype(np.float64) ** 2).sum(0),
            "present": present.sum(0),
            "codes": codes.sum(0),
            "codes2": (codes**2).sum(0),
            "together": present[:, :40].T @ present[:, :40],
        }
        ours = {name: ours.get(name, 0) + value for name, value in batch.items()}
    return ours, dict(np.load(folder / "theirs.npz"))


def errors(ours: NDArray[np.float64], theirs: NDArray[np.float64], variance: NDArray[np.float64]) -> None:
    """Means over the tokens differ by their standard error, neither more nor less."""
    z = (ours - theirs) / np.sqrt(2 * TOKENS * variance)
    assert np.abs(z).max() < 5
    assert 0.7 < np.sqrt((z**2).mean()) < 1.3


def test_features_fire_as_often(both: Any) -> None:
    ours, theirs = both
    p = (ours["present"] + theirs["present"]) / (2 * TOKENS)
    errors(ours["present"], theirs["present"], p * (1 - p))
    l0 = ours["present"].sum() / TOKENS
    assert l0 == pytest.approx(theirs["present"].sum() / TOKENS, rel=0.005)


def test_features_fire_together_as_often(both: Any) -> None:
    """Among the eight roots (which correlate) and their children (which exclude each other)."""
    ours, theirs = (one["together"][np.triu_indices(40, 1)] for one in both)
    children = np.arange(8, 40).reshape(8, 4)
    for one in both:
        siblings = [one["together"][first, second] for family in children for first in family for second in family]
        assert np.count_nonzero(siblings) == 32  # each with itself only
    p = (ours + theirs) / (2 * TOKENS)
    errors(ours[p > 0], theirs[p > 0], p[p > 0] * (1 - p[p > 0]))


def test_features_have_the_same_magnitudes(both: Any) -> None:
    ours, theirs = both
    variance = (ours["codes2"] + theirs["codes2"]) / (2 * TOKENS)
    errors(ours["codes"], theirs["codes"], variance - ((ours["codes"] + theirs["codes"]) / (2 * TOKENS)) ** 2)


def test_activations_have_the_same_moments_and_gamma(both: Any) -> None:
    ours, theirs = both
    variances = [one["x2"] / TOKENS - (one["x"] / TOKENS) ** 2 for one in both]
    errors(ours["x"], theirs["x"], (variances[0] + variances[1]) / 2)
    np.testing.assert_allclose(variances[0], variances[1], rtol=0.03)
    for one, variance in zip(both, variances, strict=True):
        assert np.linalg.norm(one["x"] / TOKENS) / np.sqrt(variance.sum()) == pytest.approx(5, rel=0.01)


def test_our_features_are_theirs(both: Any) -> None:
    assert both[1]["mcc"] == pytest.approx(1, abs=1e-6)
