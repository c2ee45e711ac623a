"""The stores hold what the model computes, for any batch size, from one pass."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import GPT2Model, PreTrainedTokenizerFast

from saelib.activations.rows import read_float32
from saelib.config.load import check_config
from saelib.datasets import open_dataset
from saelib.errors import UserError
from saelib.extract import stage
from saelib.sources import open_source
from saelib.store import open_store, verify_store

torch.set_num_threads(2)


def suite(tiny_gpt2: Path, results: Path, **source: Any) -> Any:
    tiny = {"family": "transformers", "weights": {"path": str(tiny_gpt2)}, "max_length": 40} | source
    return check_config(
        {
            "results": str(results),
            "datasets": {"docs": {"kind": "python_docs", "characters": 300}},
            "models": {"tiny": {"domain": "language", "source": tiny, "dataset": "docs", "layers": "0-3"}},
            "extraction": {"tokens": 1000, "heldout_tokens": 300, "chunk_rows": 256, "window_rows": 512},
        },
        "test",
    )


def run(config: Any, layers: list[int]) -> dict[int, Path]:
    folders = {layer: config.store_path("tiny", layer) for layer in layers}
    stage.extract("tiny", config, {layer: f"key {layer}" for layer in layers}, folders)
    return folders


def by_example(path: Path, split: str) -> dict[int, np.ndarray]:
    """Rows of each example, in an order that does not depend on the shuffle."""
    store = open_store(path)
    rows = store.train if split == "train" else store.heldout
    acts = read_float32(rows, 0, rows.shape[0])
    example = np.asarray(store.arrays[split]["example"][:])
    return {int(n): in_order(acts[example == n]) for n in np.unique(example)}


def in_order(rows: np.ndarray) -> np.ndarray:
    """Each column sorted, and the sums of whole rows beside them: rounding cannot swap what is compared."""
    return np.sort(np.concatenate([rows, rows.sum(1, keepdims=True)], axis=1), axis=0)


def test_stores_hold_what_the_model_says(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = suite(tiny_gpt2, tmp_path)
    folders = run(config, [0, 1, 2, 3])
    source = open_source(config.models["tiny"].source)
    for split, tokens in (("train", 1000), ("heldout", 300)):
        examples = list(open_dataset(config.datasets["docs"]).examples(split, 0, config.heldout_fraction))
        for layer, path in folders.items():
            assert verify_store(path) == []
            stored = by_example(path, split)
            assert sum(map(len, stored.values())) == tokens
            for number, rows in list(stored.items())[:-1]:  # the last example is cut at the number of tokens
                alone = source.forward([examples[number]], [layer]).layers[layer]
                np.testing.assert_allclose(rows, in_order(alone), atol=4e-3)
            assert open_store(path).metadata.key == f"key {layer}"


def test_another_number_of_blocks_than_stated_is_refused(tiny_gpt2: Path, tmp_path: Path) -> None:
    config = suite(tiny_gpt2, tmp_path)
    config = config.model_copy(update={"models": {"tiny": config.models["tiny"].model_copy(update={"blocks": 4})}})
    with pytest.raises(UserError, match=r"tiny: its last layer is 3, but models\.tiny\.blocks is 4"):
        run(config, [1])


def test_batch_size_changes_nothing(tiny_gpt2: Path, tmp_path: Path) -> None:
    one = run(suite(tiny_gpt2, tmp_path / "one", batch_size=1), [2])
    many = run(suite(tiny_gpt2, tmp_path / "many", batch_size=16), [2])
    first, second = by_example(one[2], "train"), by_example(many[2], "train")
    assert first.keys() == second.keys()
    for number in first:
        np.testing.assert_allclose(first[number], second[number], atol=4e-3)


def test_the_same_config_gives_the_same_bits(tiny_gpt2: Path, tmp_path: Path) -> None:
    paths = [run(suite(tiny_gpt2, tmp_path / name), [1, 3])[3] for name in ("a", "b")]
    for file in sorted(path.relative_to(paths[0]) for path in paths[0].rglob("*") if path.is_file()):
        assert (paths[0] / file).read_bytes() == (paths[1] / file).read_bytes()


def test_all_layers_come_from_one_pass(tiny_gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return original(self, *args, **kwargs)

    original = GPT2Model.forward
    monkeypatch.setattr(GPT2Model, "forward", counted)
    run(suite(tiny_gpt2, tmp_path / "all"), [0, 1, 2, 3])
    together = len(calls)
    run(suite(tiny_gpt2, tmp_path / "one"), [2])
    assert len(calls) - together == together


def test_an_unknown_layer_publishes_nothing(tiny_gpt2: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no layer 7; its layers are 0 to 3"):
        run(suite(tiny_gpt2, tmp_path), [1, 7])
    assert not list(tmp_path.rglob("*.zarr"))
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_activation_that_is_not_finite_is_named(tiny_gpt2: Path, tmp_path: Path, dtype: str) -> None:
    broken = tmp_path / "broken"
    model = GPT2Model.from_pretrained(tiny_gpt2)
    with torch.no_grad():
        model.h[1].mlp.c_proj.weight[0, 3] = float("nan")
    model.save_pretrained(broken)
    PreTrainedTokenizerFast.from_pretrained(tiny_gpt2).save_pretrained(broken)
    with pytest.raises(UserError, match=r"tiny layer 2: \d+ of \d+ activations .* not finite .*examples") as caught:
        run(suite(broken, tmp_path / "results", dtype=dtype), [1, 2])
    assert "NaN" in str(caught.value)
    assert ("a wider extraction.dtype may help" in str(caught.value)) == (dtype != "float32")
    assert not list(tmp_path.rglob("*.zarr"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300])
def test_a_file_that_is_not_finite_is_not_advised_a_wider_dtype(tmp_path: Path, value: float) -> None:
    x = np.random.default_rng(0).standard_normal((400, 8))
    x[17, 3] = value
    np.save(tmp_path / "x.npy", x)
    source = {"family": "arrays", "files": {1: str(tmp_path / "x.npy")}}
    raw = {
        "results": str(tmp_path / "results"),
        "models": {"tiny": {"domain": "made up", "source": source, "layers": "1"}},
        "extraction": {"tokens": 300, "heldout_tokens": 100},
    }
    expected = r"tiny layer 1: 1 of .* in the examples row 17; leave them out of the files"
    with pytest.raises(UserError, match=expected) as caught:
        run(check_config(raw, "test"), [1])
    assert "dtype" not in str(caught.value)


def test_the_log_says_which_rows_are_float32_and_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    x = np.random.default_rng(0).standard_normal((800, 8)) + 50
    np.save(tmp_path / "1.npy", x)
    x[17] *= 1e-4
    np.save(tmp_path / "2.npy", x)
    source = {"family": "arrays", "files": {layer: str(tmp_path / f"{layer}.npy") for layer in (1, 2)}}
    raw = {
        "results": str(tmp_path / "results"),
        "models": {"tiny": {"domain": "made up", "source": source, "layers": "1-2"}},
        "extraction": {"tokens": 600, "heldout_tokens": 200},
    }
    with caplog.at_level("INFO"):
        folders = run(check_config(raw, "test"), [1, 2])
    reasons = open_store(folders[2]).metadata.reasons
    assert set(reasons) == {"train"}
    assert f"tiny layer 2: the train rows are stored in float32: {reasons['train']}" in caplog.messages
    assert "tiny: float16 is precise enough for every row of 1 layers" in caplog.messages
    assert open_store(folders[1]).metadata.reasons == {}
