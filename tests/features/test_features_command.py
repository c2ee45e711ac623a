"""The command writes pages as a person calls it, and a mistake gets one sentence."""

from typing import Any

from tests.cli.test_cli import saelib
from tests.features.conftest import SAE


def test_pages_are_written_and_link_to_those_next_to_them(written: Any, tmp_path: Any):
    folder = written("sequence").folder
    said = saelib("features", folder, folder / SAE, "--to", tmp_path / "pages" / SAE)
    assert said.strip() == f"{tmp_path / 'pages' / SAE / 'index.html'}: written"
    page = (tmp_path / "pages" / SAE / "index.html").read_text()
    assert f'Latents of <span class="name">{SAE}</span>' in page
    assert 'id="map"' not in page


def test_mistakes_get_one_sentence(written: Any, tmp_path: Any):
    folder = written("sequence").folder
    said = saelib("features", folder, "pca-seed7", "--to", tmp_path / "pages", code=1)
    assert "no such file; the SAEs here are pca-seed0" in said
    assert "no tokens.parquet" in saelib("features", tmp_path, SAE, "--to", tmp_path / "pages", code=1)
    assert not (tmp_path / "pages").exists()
