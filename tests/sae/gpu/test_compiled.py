"""The kernels compile for two generations of GPUs, without a GPU, and what they need is bounded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed (docs/training.md says how to run these tests)")

ROOT = Path(__file__).parents[3]
MOST_REGISTERS = 168
"""Of a thread, in programs of 8 warps; those of 16 cannot have more than 128."""


@pytest.mark.parametrize("capability", [80, 90])
def test_nothing_spills(capability: int, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, "-m", "tests.sae.gpu.compile_kernels", str(capability)],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    for name, needs in json.loads(result.stdout).items():
        assert needs["spilled"] == 0, name
        assert needs["registers"] <= MOST_REGISTERS, name
        assert needs["shared"] <= 64 * 1024, name
        assert needs["widest_load"] == 128 or name == "biases", name
