"""Commands and functions without the packages that extras bring: they work, or name the extra in one sentence."""

import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import polars as pl
import pytest

from saelib.environments import EXTRAS

ROOT = Path(__file__).parents[2]
BARE = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {sorted(EXTRAS)}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Missing())
"""
"""Imports of these packages then fail as where they are not installed."""
MAIN = "from saelib.cli import main; main()"


def bare(*arguments: object, code: str = MAIN, fails: bool = False) -> str:
    command = [sys.executable, "-c", BARE + code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == fails, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if fails else done.stdout


@pytest.fixture
def acts(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).normal(3, 1, size=(500, 8)).astype(np.float32)
    np.save(tmp_path / "a.npy", rows)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["a"] = rows
    pl.DataFrame({"a": rows.tolist()}).write_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.pt").write_bytes(b"PK\x03\x04")
    return tmp_path


def test_what_needs_no_extra(acts: Path) -> None:
    assert "gamma_unit" in bare("stats", acts / "a.npy")
    assert "dead_total" in bare("theory", "--gamma", 5)
    assert "rho" in bare(
        "spearman", ROOT / "tests/data/released_layers.csv", "--x", "gamma", "--y", "dead_pct_init_relu"
    )
    assert '"$defs"' in bare("schema")


@pytest.mark.parametrize(
    ("package", "arguments"),
    [
        ("h5py", ["stats", "a.h5"]),
        ("pyarrow", ["stats", "a.parquet"]),
        ("torch", ["stats", "a.pt"]),
        ("torch", ["evaluate", "sae.safetensors", "a.npy"]),
        ("torch", ["export", "sae.safetensors", "out", "--to", "saelens"]),
        ("torch", ["import", "folder", "sae.safetensors"]),
        ("huggingface_hub", ["plan", "--configfile", str(ROOT / "configs/paper.yaml")]),
    ],
)
def test_a_command_names_the_extra_it_lacks(
    acts: Path, monkeypatch: pytest.MonkeyPatch, package: str, arguments: list[str]
) -> None:
    monkeypatch.chdir(acts)
    said = bare(*arguments, fails=True)
    command = f"pip install 'saelib[{EXTRAS[package]}]'"
    assert said.splitlines()[-1] == f"error: this needs {package}, which is not installed; run: {command}"


@pytest.mark.parametrize(
    ("package", "call"),
    [
        ("torch", "saelib.load_sae('sae.safetensors')"),
        ("torch", "saelib.evaluate_sae('sae.safetensors', 'a.npy')"),
        ("h5py", "saelib.compute_stats('a.h5')"),
    ],
)
def test_a_function_names_the_extra_it_lacks(
    acts: Path, monkeypatch: pytest.MonkeyPatch, package: str, call: str
) -> None:
    monkeypatch.chdir(acts)
    code = f"import saelib\ntry:\n    {call}\nexcept saelib.UserError as error:\n    print(error)"
    assert f"needs {package}, which is not installed; run: pip install 'saelib[" in bare(code=code)


def test_a_model_names_the_extra_that_brings_all_it_needs(acts: Path) -> None:
    code = (
        "from saelib.config.families import Esm2Source\nfrom saelib.errors import UserError\n"
        "from saelib.sources import open_source\n"
        "try:\n    open_source(Esm2Source(family='esm2', weights={'path': 'w.pt'}))\n"
        "except UserError as error:\n    print(error)"
    )
    assert "needs torch, which is not installed; run: pip install 'saelib[models]'" in bare(code=code)
