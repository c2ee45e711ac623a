"""docs/plugins.md is what it says: its files and its config, as they stand there, run through every stage."""

import json
import math
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

from saelib.config import Config
from saelib.config.load import check_config
from saelib.datasets import Example
from saelib.pipeline.plan import make_plan
from saelib.sources import open_source
from saelib.sources.loading.user_code import GROUP

torch.set_num_threads(1)

PAGE = Path(__file__).parents[2] / "docs" / "plugins.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
SMALL = {
    "extraction": {"tokens": 1024, "heldout_tokens": 512, "chunk_rows": 512, "threads": 1},
    "init_death": {"d_sae": 64, "k": 4, "seeds": 1},
}


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def config_on_the_page(gpt2: Path) -> Config:
    """All entries of the page as one suite; the hub's gpt2 is a small one on this machine."""
    suite: dict[str, Any] = {"models": {}, "datasets": {}}
    for text in blocks("yaml"):
        for part, entries in yaml.safe_load(text).items():
            suite[part] |= entries
    suite["models"]["gpt2"]["source"]["weights"] = {"path": str(gpt2)}
    return check_config(suite | SMALL, PAGE.name)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with the files of the page in it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for text in blocks("python"):
        file = tmp_path / text.partition("\n")[0].removeprefix("# ")
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
    exec((tmp_path / "save_activations.py").read_text(), {})
    yield tmp_path
    sys.modules.pop("chars", None)


def small_gpt2(folder: Path) -> Path:
    words = ["<unk>", *["the", "of", "a", "is", "and", "to", "in", "that", "it", "or", "be", "as", "for", "are"]]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    GPT2Model(GPT2Config(vocab_size=len(words), n_embd=16, n_layer=8, n_head=2, n_positions=128)).save_pretrained(
        folder
    )
    return folder


def test_every_example_runs_through_the_pipeline(project: Path) -> None:
    config = config_on_the_page(small_gpt2(project / "gpt2"))
    for job in make_plan(config).jobs.values():
        if job.stage != "report":
            stage = "saelib.extract.stage" if job.stage == "extract" else f"saelib.{job.stage}.stage"
            import_module(stage).run(config, job)
    assert config.models.keys() == {"gpt2", "chars", "saved", "letters"}
    for name, model in config.models.items():
        for layer in model.layers:
            gamma = json.loads(config.stats_path(name, layer).read_text())["gamma"]
            assert math.isfinite(gamma)
            assert gamma > 0
            assert config.init_death_path(name, layer).is_file()
    assert {job.stage for job in make_plan(config).jobs.values()} == {"report"}


@pytest.mark.parametrize("name", ["chars", "letters"])
def test_the_examples_leave_padding_out_and_do_not_mix_texts(project: Path, name: str) -> None:
    source = open_source(config_on_the_page(project).models[name].source)
    examples = [Example(text, text, text) for text in ("a", "some letters", "fewer")]
    together = source.forward(examples, [0, 1, 3])
    assert together.tokens_per_example == [1, 12, 5]
    alone = [source.forward([example], [0, 1, 3]) for example in examples]
    for layer in (0, 1, 3):
        expected = np.concatenate([acts.layers[layer] for acts in alone])
        np.testing.assert_allclose(together.layers[layer], expected, atol=1e-5)


def test_the_plugin_on_the_page_is_short() -> None:
    (plugin,) = [text for text in blocks("python") if text.startswith("# plugins/")]
    assert len(plugin.splitlines()) <= 40


def test_the_entry_point_on_the_page_is_in_the_group_that_is_read() -> None:
    (text,) = blocks("toml")
    assert list(tomllib.loads(text)["project"]["entry-points"]) == [GROUP]
