"""What a suite is said to need is what it then takes, and what keeps a model from running is said before it runs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from saelib.config import Config, ModelConfig
from saelib.extract.stage import extract
from saelib.pipeline.needs import suite_needs

MODEL = TypeAdapter(ModelConfig)


def suite(tmp_path: Path, source: dict[str, Any], **options: Any) -> Config:
    dataset = {} if source["family"] == "arrays" else {"dataset": "docs"}
    model = {"domain": "language", "source": source, "layers": "1-2", **dataset, **options}
    return Config.model_validate(
        {
            "results": str(tmp_path / "results"),
            "datasets": {"docs": {"kind": "python_docs"}},
            "models": {"m": model},
            "extraction": {"tokens": 20_000, "heldout_tokens": 10_000},
        }
    )


def arrays(tmp_path: Path) -> dict[str, Any]:
    for layer in (1, 2):
        values = np.random.default_rng(layer).standard_normal((30_000, 48)).astype(np.float32)
        np.save(tmp_path / f"{layer}.npy", values)
    return {"family": "arrays", "files": {layer: str(tmp_path / f"{layer}.npy") for layer in (1, 2)}}


def test_the_stores_are_as_large_as_was_said(tmp_path: Path) -> None:
    config = suite(tmp_path, arrays(tmp_path), width=48)
    (said,) = suite_needs(config)
    folders = {layer: config.store_path("m", layer) for layer in (1, 2)}
    extract("m", config, dict.fromkeys(folders, "key"), folders)
    taken = sum(file.stat().st_size for folder in folders.values() for file in folder.rglob("*") if file.is_file())
    assert said.bytes == pytest.approx(taken, rel=0.02)
    assert (said.layers, said.stale_layers, said.tokens, said.passes) == (2, 2, 30_000, 0)


def test_fresh_layers_need_no_pass(tmp_path: Path) -> None:
    from saelib.pipeline.targets import wanted_targets

    config = suite(tmp_path, arrays(tmp_path), width=48)
    targets = [target for target in wanted_targets(config) if target.stage == "extract" and target.layer == 2]
    extract("m", config, {2: targets[0].key}, {2: targets[0].output})
    assert suite_needs(config)[0].stale_layers == 1


def test_forward_passes_and_memory_follow_from_the_batch(tmp_path: Path) -> None:
    weights = {"path": str(tmp_path)}
    source = {"family": "transformers", "weights": weights, "max_length": 128, "batch_size": 4, "dtype": "bfloat16"}
    (small,) = suite_needs(suite(tmp_path, source, width=64, parameters=10**6))
    assert (small.passes, small.forward_passes) == (1, -(-30_000 // 512))
    (capped,) = suite_needs(suite(tmp_path, source | {"batch_tokens": 150}, width=64, parameters=10**6))
    assert capped.forward_passes == 200
    (wide,) = suite_needs(suite(tmp_path, source | {"dtype": "float32"}, width=64, parameters=10**6))
    assert wide.gpu_bytes == 2 * (small.gpu_bytes or 0)
    assert (small.gpu_bytes or 0) > 2 * 10**6
    (unknown,) = suite_needs(suite(tmp_path, source))
    assert (unknown.bytes, unknown.gpu_bytes) == (None, None)


def missing(config: Config) -> list[str]:
    return suite_needs(config)[0].missing


def test_what_is_missing_is_said_one_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    lost = {"family": "transformers", "weights": {"path": str(tmp_path / "nowhere")}}
    assert missing(suite(tmp_path, lost)) == [f"no file or folder {tmp_path / 'nowhere'}"]
    gated = {"family": "transformers", "weights": {"hf": "some/gated", "gated": True}}
    (line,) = missing(suite(tmp_path, gated))
    assert "https://huggingface.co/some/gated" in line
    assert "HF_TOKEN" in line
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_x")
    assert missing(suite(tmp_path, gated)) == []
    folded = {"family": "alphafold3", "inputs": str(tmp_path / "in"), "outputs": str(tmp_path / "out")}
    (line,) = missing(suite(tmp_path, folded, layers=0))
    assert "alphafold3-inputs" in line
    assert missing(suite(tmp_path, folded | {"command": ["run"]}, layers=0)) == []


def test_what_may_move_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    loose = {"family": "transformers", "weights": {"hf": "some/model"}}
    notes = suite_needs(suite(tmp_path, loose))[0].notes
    assert "hf some/model@main: may change (revision is no commit)" in notes
    pinned = {"family": "transformers", "weights": {"hf": "some/model", "revision": "0" * 40}}
    assert not any("may change" in note for note in suite_needs(suite(tmp_path, pinned))[0].notes)


def test_what_training_straight_from_the_model_will_take_is_said(tmp_path: Path) -> None:
    source = {"family": "transformers", "weights": {"path": str(tmp_path)}, "max_length": 128, "batch_size": 4}
    tokens = 300 * 1024  # steps and batch by default; four variants on two layers

    def said(stream: Any) -> tuple[int, int | None]:
        (needs,) = suite_needs(suite(tmp_path, source, train_layers=[1, 2], stream=stream))
        return needs.streamed_tokens, needs.training_passes

    assert said(False) == (0, 0)
    assert said(True) == (tokens, tokens // 512)
    assert said({"sweeps_per_pass": 3}) == (tokens, 3 * tokens // 512)
