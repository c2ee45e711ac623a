"""SAEBench computes its core metrics of SAEs that we exported, on the same activations: ours agree to 1e-3.

`make test-interop` installs it.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.peers import python_of
from saelib.api.sae import LoadedSAE
from saelib.evaluation.core import CoreMetrics, core_metrics
from saelib.interchange import export_sae

pytestmark = pytest.mark.interop

SAME = ("cossim", "l2_ratio", "relative_reconstruction_bias", "l0", "freq_over_1_percent")
CONTEXT = 25
PROMPTS = (3, 12)
"""Prompts in a batch of SAEBench's. The rows are 12 prompts."""
CASES = ("topk-center_median", "batch_topk-pca", "relu-raw", "jumprelu-zscore")


@pytest.fixture(scope="module")
def theirs(make: Any, rows: NDArray[np.float32], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Case -> prompts per batch -> SAEBench's numbers."""
    python = python_of("sae_bench")
    if python is None:
        pytest.skip("sae_bench is not installed; make test-interop installs it")
    folder = tmp_path_factory.mktemp("sae_bench")
    np.save(folder / "x.npy", rows.reshape(-1, CONTEXT, rows.shape[1]))
    for case in CASES:
        export_sae(make(*case.split("-")), "saelens", folder / "saes" / case)
    script = Path(__file__).parent / "peers" / "core_sae_bench.py"
    done = subprocess.run([python, script, folder, *map(str, PROMPTS)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=CASES)
def both(request: pytest.FixtureRequest, theirs: Any, make: Any, rows: Any) -> tuple[CoreMetrics, dict[int, Any]]:
    """Our figures of an SAE, and SAEBench's by tokens in a batch."""
    ours = core_metrics(rows, LoadedSAE(make(*request.param.split("-")), "test")).all
    return ours, {int(prompts) * CONTEXT: found for prompts, found in theirs[request.param].items()}


def test_figures_with_the_same_definition_agree(both: tuple[CoreMetrics, dict[int, Any]]) -> None:
    ours, theirs = both
    for found in theirs.values():
        assert {name: getattr(ours, name) for name in SAME} == pytest.approx({n: found[n] for n in SAME}, rel=1e-3)


def test_their_mse_is_divided_by_the_tokens_of_a_batch(both: tuple[CoreMetrics, dict[int, Any]]) -> None:
    ours, theirs = both
    for tokens, found in theirs.items():
        assert ours.mse == pytest.approx(found["mse"] * tokens, rel=1e-3)


def test_their_variance_takes_a_second_moment_for_the_mean(
    both: tuple[CoreMetrics, dict[int, Any]], rows: NDArray[np.float32]
) -> None:
    """docs/evaluation.md says so. From the same errors, both numbers follow."""
    ours, theirs = both
    moments = (rows.astype(np.float64) ** 2).mean(0)
    for found in theirs.values():
        expected = 1 - ours.mse / (moments.sum() - moments.mean() ** 2)
        assert found["explained_variance"] == pytest.approx(expected, rel=1e-3)
    assert ours.explained_variance == pytest.approx(1 - ours.mse / rows.astype(np.float64).var(0).sum(), rel=1e-3)
