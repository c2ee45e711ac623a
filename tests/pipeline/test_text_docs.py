"""The example of `kind: text` in docs/models.md, as it stands there, for a folder of books and for one book."""

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from saelib.config.load import check_config
from saelib.extract.stage import extract
from saelib.pipeline.needs import suite_needs
from saelib.store import open_store

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
WORDS = ["the", "of", "a", "is", "and", "to", "in", "that", "it", "or", "be", "as", "for", "are"]


@pytest.mark.parametrize("books", [1, 12])
def test_the_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_gpt2: Path, books: int) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "books").mkdir()
    rng = np.random.default_rng(0)
    for number in range(books):
        lines = (" ".join(rng.choice(WORDS, 12)) for _ in range(2400 // books))
        (tmp_path / "books" / f"{number}.txt").write_text("\n".join(lines), encoding="utf-8-sig")
    (text,) = re.findall(r"^```yaml\n(datasets:\n  books:.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    suite = yaml.safe_load(text)
    model = suite["models"]["gpt2"]
    model["source"] |= {"weights": {"path": str(tiny_gpt2)}, "max_length": 64}
    model["layers"] = 2
    config = check_config(suite | {"extraction": {"tokens": 2000, "heldout_tokens": 500}}, PAGE.name)
    assert suite_needs(config)[0].missing == []
    extract("gpt2", config, {2: "key"}, {2: tmp_path / "store"})
    store = open_store(tmp_path / "store")
    assert (store.train.shape, store.heldout.shape) == ((2000, 16), (500, 16))
