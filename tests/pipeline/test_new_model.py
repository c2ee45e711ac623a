"""Any model joins a finished suite by config alone, and costs the models that are there nothing."""

import json
import math
from pathlib import Path
from typing import Any

import polars as pl
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedTokenizerFast

PLUGIN = """
import numpy as np

from saelib.sources import Activations


class Letters:
    n_layers = 2

    def d_in(self, layer):
        return 12

    def forward(self, examples, layers):
        codes = np.array([ord(letter) for example in examples for letter in example.content], float)
        angles = np.outer(codes, np.arange(1, 13))
        return Activations({i: np.sin(angles + i) for i in layers}, [len(example.content) for example in examples])


def open_source(options, device, dtype):
    return Letters()
"""


def save_checkpoint(folder: Path) -> None:
    """A GPT-NeoX as its trainer saves it, of a shape that no suite has."""
    words = ["<unk>", "the", "of", "a", "is", "and", "to", "in", "that", "it", "or", "be", "as", "for", "are"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=len(words), hidden_size=20, num_hidden_layers=3, num_attention_heads=2, intermediate_size=30,
        max_position_embeddings=64,
    )  # fmt: skip
    GPTNeoXForCausalLM(config).save_pretrained(folder)


def with_new_models(config: dict[str, Any]) -> dict[str, Any]:
    """The suite and two entries more; nothing that was there changes."""
    sources = {
        "letters": {"family": "plugin", "file": {"path": "plugins/letters.py"}},
        "neox": {"family": "transformers", "weights": {"path": "neox"}, "max_length": 64},
    }
    shared = {"domain": "language", "dataset": "python_docs", "layers": [1, 2]}
    new = {name: {"source": source, **shared} for name, source in sources.items()}
    return config | {"datasets": {"python_docs": {"kind": "python_docs"}}, "models": config["models"] | new}


def dates(root: Path, models: list[str]) -> dict[Path, int]:
    """When each result file of these models was written."""
    return {
        file: file.stat().st_mtime_ns
        for stage in ("extract", "stats", "init_death", "train")
        for model in models
        for file in (root / "results" / stage / model).rglob("*")
        if file.is_file()
    }


def jobs_of(run: Path) -> set[str]:
    """Jobs that a run finished, by their markers."""
    done = run / "done"
    return {str(marker.relative_to(done)) for marker in done.rglob("*") if marker.is_file()}


def test_a_plugin_and_a_checkpoint_join_by_config_alone(edited: Any) -> None:
    (edited.root / "plugins").mkdir()
    (edited.root / "plugins" / "letters.py").write_text(PLUGIN)
    save_checkpoint(edited.root / "neox")
    old = list(edited.config["models"])
    before, runs = dates(edited.root, old), set((edited.root / "results" / "runs").iterdir())
    edited.config = with_new_models(edited.config)

    edited.run()

    (run,) = set((edited.root / "results" / "runs").iterdir()) - runs
    own = {
        f"{stage}/{model}/layers_1-2" for stage in ("extract", "stats", "init_death") for model in ("letters", "neox")
    }
    assert jobs_of(run) == own | {"theory/all", "report/all"}
    assert json.loads((run / "plan.json").read_text())["jobs"].keys() == jobs_of(run)
    assert before
    assert dates(edited.root, old) == before

    table = pl.read_csv(edited.root / "results" / "tables" / "layers.csv")
    for model, width in (("letters", 12), ("neox", 20)):
        rows = table.filter(pl.col("model") == model)
        assert rows["layer"].to_list() == [1, 2]
        assert rows["d_in"].to_list() == [width, width]
        assert all(math.isfinite(gamma) and gamma > 0 for gamma in rows["gamma"])
    assert set(table["model"]) == {*old, "letters", "neox"}
    assert edited.stale() == set()

    # An edit of the plug-in is an edit of its model alone; a mistake in it costs no result.
    (edited.root / "plugins" / "letters.py").write_text(PLUGIN.replace("n_layers = 2", "n_layers = 1 / 0"))
    expected = {f"{stage}/letters/layers_1-2" for stage in ("extract", "stats", "init_death")}
    assert edited.stale() == expected | {"theory/all", "report/all"}
    rows = dates(edited.root, [*old, "letters", "neox"])
    done = edited.snakemake()
    assert done.returncode == 1
    words = done.stdout + done.stderr
    assert "letters.py: ZeroDivisionError: division by zero (plugins/letters.py, line 8)" in words
    assert "Traceback" not in words
    assert dates(edited.root, [*old, "letters", "neox"]) == rows
