"""ESM3's tests need its own environment, where they run as a whole."""

import subprocess
from pathlib import Path

import pytest

from saelib.environments import interpreter

TESTS = Path(__file__).with_name("own_environment_esm3.py")


def test_in_its_own_environment():
    python = interpreter("esm3")
    if python == "python":
        pytest.skip("no environment .envs/esm3, which holds the package esm; 'make env-esm3' makes it")
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", str(TESTS)]
    result = subprocess.run(command, cwd=TESTS.parents[2], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_elsewhere_the_command_that_makes_it_is_named(monkeypatch, tmp_path):
    from saelib import environments
    from saelib.config.files import LocalFiles
    from saelib.config.sources import Esm3Source
    from saelib.errors import UserError
    from saelib.sources import open_source

    monkeypatch.setattr(environments, "ENVIRONMENTS", {})
    with pytest.raises(UserError, match="family 'esm3' needs esm, not installed; run: make env-esm3"):
        open_source(Esm3Source(family="esm3", weights=LocalFiles(path=tmp_path)))
