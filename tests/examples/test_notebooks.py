"""The notebooks of examples/ run from top to bottom, and what they show is what their text says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
EXAMPLES = PROJECT / "examples"
CLAIMS = {
    "diagnose_a_layer": """
        assert found.recommendation == "mean_center"
        assert found.measured["raw"].dead_total > 5 * found.measured["center_median"].dead_total
        assert b_dec.norm() > 0
    """,
    "baseline_against_centered": """
        assert dead["baseline"].float().mean() > 0.2 > 0.05 > dead["centered"].float().mean()
        away = cosine < 0
        assert away[dead["baseline"]].float().mean() > 0.7 > away[~dead["baseline"]].float().mean()
        assert len(lost) > 10
    """,
    "your_own_module": """
        assert all(one.measured["raw"].dead_total > one.measured["center_median"].dead_total for one in found.values())
        assert worse.outlier_dimensions[0].index == 7
        assert worse.measured["raw"].dead_total > found["blocks.2"].measured["raw"].dead_total
        assert streamed.tokens == 10_000
    """,
}
"""Notebook -> what must hold after its last cell."""
DOWNLOADS = {"diagnose_a_layer", "baseline_against_centered"}
NOTEBOOKS = [
    pytest.param(name, marks=pytest.mark.models if name in DOWNLOADS else (), id=name)
    for name in sorted(path.stem for path in EXAMPLES.glob("*.ipynb"))
]


def cells(name: str) -> list[dict]:
    return json.loads((EXAMPLES / f"{name}.ipynb").read_text())["cells"]


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_shows_what_it_says(name: str, tmp_path: Path) -> None:
    code = ["".join(cell["source"]) for cell in cells(name) if cell["cell_type"] == "code"]
    claims = "\n".join(line.strip() for line in CLAIMS[name].splitlines())
    script = tmp_path / f"{name}.py"
    script.write_text("\n\n".join([*code, claims]))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=EXAMPLES,
        env=os.environ | {"PYTHONPATH": str(PROJECT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", [param.values[0] for param in NOTEBOOKS])
def test_a_notebook_is_kept_without_outputs(name: str) -> None:
    kept = [cell for cell in cells(name) if cell["cell_type"] == "code"]
    assert kept
    assert [cell for cell in kept if cell["outputs"] or cell["execution_count"] is not None] == []
