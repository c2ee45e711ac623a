"""Commands as a person calls them: readable, JSON when asked, one clear sentence and exit code 1 for a mistake."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

RELEASED = Path(__file__).parents[1] / "data" / "released_layers.csv"


def saelib(*arguments: object, code: int = 0) -> str:
    command = [sys.executable, "-c", "from saelib.cli import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stderr


def as_json(*arguments: object) -> Any:
    return json.loads(saelib(*arguments, "--json"))


def test_help_lists_the_commands() -> None:
    text = saelib("--help")
    assert all(name in text for name in ("theory", "stats", "spearman", "store", "fetch"))


def test_theory_gives_the_published_numbers() -> None:
    values = as_json("theory", "--gamma", 5, "--d-sae", 8192, "--k", 64, "--tokens", 100000)
    assert values["c"] == pytest.approx(4.26489, abs=1e-4)
    assert values["t_k"] == pytest.approx(2.41756, abs=1e-4)
    assert values["dead_relu"] == pytest.approx(0.197, abs=1e-3)
    assert set(values) == {"c", "t_k", "dead_relu", "dead_total", "dead_total_paper"}
    assert values["dead_total_paper"] == pytest.approx(0.941, abs=1e-3)
    assert values["dead_total"] == pytest.approx(0.947, abs=1e-3)
    assert "dead_total" in saelib("theory", "--gamma", 5)
    assert "should be a finite number" in saelib("theory", "--gamma", "inf", code=1)


def test_stats_of_a_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    acts = rng.standard_normal((3000, 16)).astype(np.float32)
    acts[:, 0] += 40
    np.save(tmp_path / "a.npy", acts)
    values = as_json("stats", tmp_path / "a.npy")
    wide = acts.astype(np.float64)
    assert values["tokens"] == 3000
    assert values["d_in"] == 16
    assert values["gamma_raw"] == pytest.approx(np.linalg.norm(wide.mean(0)) / np.linalg.norm(wide.std(0)), rel=1e-6)
    assert set(values) == {
        "source", "tokens", "d_in", "gamma", "gamma_raw", "gamma_unit", "effective_rank", "effective_rank_fraction",
        "excess_kurtosis", "norm_ratio", "warnings",
    }  # fmt: skip
    assert "gamma_unit" in saelib("stats", tmp_path / "a.npy")


def test_mistakes_are_one_sentence_and_exit_code_1(tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.full((10, 4), np.nan))
    (tmp_path / "t.csv").write_text("a,b,name\n1,2,x\n2,1,y\n3,3,z\n")
    assert "no such file" in saelib("stats", tmp_path / "none.npy", code=1)
    assert "nan.npy" in saelib("stats", tmp_path / "nan.npy", code=1)
    assert "did you mean 'name'?" in saelib("spearman", tmp_path / "t.csv", "--x", "a", "--y", "nam", code=1)
    assert "should hold numbers" in saelib("spearman", tmp_path / "t.csv", "--x", "a", "--y", "name", code=1)
    assert "k = 9, d_sae = 4" in saelib("theory", "--gamma", 1, "--d-sae", 4, "--k", 9, code=1)
    assert "no such configuration file" in saelib("fetch", "--configfile", tmp_path / "none.yaml", code=1)
    assert "no such store" in saelib("store", "verify", tmp_path / "none.zarr", code=1)


def test_spearman_of_any_table(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,g\n1,2,u\n2,1,u\n3,3,v\n4,,v\n5,6,v\n6,9,v\n")
    rows = as_json("spearman", tmp_path / "t.csv", "--x", "a", "--y", "b", "--by", "g")
    assert [row["n"] for row in rows] == [5, 2, 3]
    assert rows[0]["rho"] == pytest.approx(0.9)
    assert rows[0]["ci_over"] == "rows"
    assert rows[0]["ci_low"] <= rows[0]["rho"] <= rows[0]["ci_high"]
    (row,) = as_json("spearman", tmp_path / "t.csv", "--x", "a", "--y", "b", "--cluster", "g")
    assert (row["ci_over"], row["n_clusters"], row["ci_low"]) == ("g", 2, None)
    assert "2 values of g, fewer than 3" in saelib(
        "spearman", tmp_path / "t.csv", "--x", "a", "--y", "b", "--cluster", "g"
    )


def test_spearman_within_groups_of_which_some_rows_have_none(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,g\n1,2,u\n2,1,\n3,3,u\n4,5,\n5,6,\n")
    rows = as_json("spearman", tmp_path / "t.csv", "--x", "a", "--y", "b", "--by", "g")
    assert [(row["scope"], row["n"]) for row in rows] == [("overall", 5), ("u", 2), ("(empty)", 3)]


@pytest.mark.parametrize(
    ("x", "y", "expected"),
    [
        ("gamma", "topk", {"overall": 0.914, "biology": 0.897, "language": 0.923, "vision": 0.977}),
        ("gamma", "relu", {"overall": 0.830, "biology": 0.853, "language": 0.611, "vision": 0.957}),
        ("gamma_raw", "topk", {"overall": 0.620}),
        ("gamma_raw", "relu", {"overall": 0.574}),
    ],
)
def test_spearman_of_the_released_table(x: str, y: str, expected: dict[str, float]) -> None:
    rows = as_json("spearman", RELEASED, "--x", x, "--y", f"dead_pct_init_{y}", "--by", "domain")
    assert rows[0]["scope"] == "overall"
    found = {row["scope"]: row["rho"] for row in rows}
    for scope, rho in expected.items():
        assert found[scope] == pytest.approx(rho, abs=6e-4)
    assert all(row["ci_over"] == "model" for row in rows)
    assert all(row["ci_low"] < row["ci_low_rows"] < row["rho"] < row["ci_high_rows"] < row["ci_high"] for row in rows)


def test_version_help_and_completion_as_people_expect_them() -> None:
    from saelib import __version__

    assert saelib("--version") == f"saelib {__version__}\n"
    assert saelib("-h") == saelib("--help")
    assert saelib("stats", "-h") == saelib("stats", "--help")
    assert "--install-completion" in saelib("-h")


def test_python_m_saelib_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "saelib", "theory", "--gamma", "5", "--json"], capture_output=True)
    assert json.loads(done.stdout) == as_json("theory", "--gamma", 5)


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom saelib.cli import main\ntry:\n    main()\nexcept SystemExit:\n    pass\n"
        "print('loaded:', *{'numpy', 'pydantic', 'polars', 'torch', 'numba', 'zarr', 'dask'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_recovery_says_how_long_with_its_error_and_what_takes_no_time() -> None:
    settings = ("recovery", "--gamma", 20, "--mu-norm", 60, "--lr", 2e-3, "--batch-size", 256)
    values = as_json(*settings)
    assert values["least"] == pytest.approx(30_000)
    assert values["least"] < values["bias_50"] < values["bias_90"] < values["bias_99"]
    assert values["outside"] == []
    assert set(values["errors"]) == {"bias_50", "bias_90", "bias_99", "revived"}
    text = saelib(*settings)
    assert "b_dec holds half of the mean" in text
    assert "Least steps of any bias, ||mean||_inf / learning rate: 30,000." in text
    assert "geometric median" in text
    assert "Extrapolated" not in text


def test_recovery_names_what_is_outside_of_its_range_or_impossible() -> None:
    settings = ("recovery", "--gamma", 20, "--mu-norm", 60, "--lr", 2e-3)
    text = saelib(*settings, "--d-sae", 8192, "--k", 8)
    assert "Extrapolated: d_sae = 8192 is outside of the tested range" in text
    assert "the error of an extrapolation is unknown" in text
    assert "not expected" in saelib(*settings[:-1], 0.016)
    small = saelib("recovery", "--gamma", 1, "--mu-norm", 3, "--lr", 2e-3)
    assert "less than 5 % of the latents are born dead" in small
    assert saelib(*settings, "--mu-inf", 70, code=1).strip() == (
        "error: mean_largest = 70 exceeds mean_norm = 60; the largest coordinate of the mean cannot exceed its norm"
    )
