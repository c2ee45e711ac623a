"""`layers: all` and open ranges, and mistakes about layers and widths that files on this machine show by themselves."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from saelib.config import Config
from saelib.config.load import check_config
from saelib.config.sizes import Size, known_size
from saelib.errors import UserError
from saelib.pipeline.needs import suite_needs


def loaded(source: dict[str, Any], layers: Any = "all", **model: Any) -> Config:
    dataset = {} if source["family"] == "arrays" else {"dataset": "docs"}
    model = {"domain": "d", "source": source, "layers": layers, **dataset, **model}
    return check_config({"datasets": {"docs": {"kind": "python_docs"}}, "models": {"m": model}}, "suite")


def layers_of(source: dict[str, Any], layers: Any = "all", **model: Any) -> tuple[int, ...]:
    return loaded(source, layers, **model).models["m"].layers


def saved(folder: Path, settings: dict[str, Any], family: str = "transformers", file: str = "config.json") -> dict:
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(json.dumps(settings))
    return {"family": family, "weights": {"path": str(folder)}}


LLAMA = {"num_hidden_layers": 4, "hidden_size": 64}


@pytest.mark.parametrize(
    ("family", "file", "settings", "width"),
    [
        ("transformers", "config.json", LLAMA, 64),
        ("transformers", "config.json", {"n_layer": 4, "n_embd": 48}, 48),
        ("transformers", "config.json", {"n_layers": 4, "dim": 40}, 40),
        ("transformers", "config.json", {"text_config": LLAMA, "vision_config": {"num_hidden_layers": 9}}, 64),
        ("transformers_vision", "config.json", {"vision_config": LLAMA, "text_config": {"hidden_size": 9}}, 64),
        ("progen2", "config.json", {"n_layer": 4, "embed_dim": 32}, 32),
        ("glm2", "config.json", {"depth": 4, "dim": 56}, 56),
        ("evo", "config.json", {"num_layers": 4, "hidden_size": 24}, 24),
        ("antiberty", "AntiBERTy_md_smooth/config.json", LLAMA, 64),
        (
            "stable_diffusion_3",
            "transformer/config.json",
            {"num_layers": 4, "num_attention_heads": 3, "attention_head_dim": 16},
            48,
        ),
    ],
)
def test_blocks_and_width_stand_in_the_checkpoints_own_config(tmp_path, family, file, settings, width):
    config = loaded(saved(tmp_path, settings, family, file))
    assert config.models["m"].layers == (1, 2, 3, 4)
    [needs] = suite_needs(config)
    assert needs.width == width
    assert needs.bytes
    assert Config.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ("all", (1, 2, 3, 4)),
        (["all"], (1, 2, 3, 4)),
        ([0, "all"], (0, 1, 2, 3, 4)),
        ("0-", (0, 1, 2, 3, 4)),
        ("3-", (3, 4)),
        ([0, "3 -"], (0, 3, 4)),
        ("4-", (4,)),
        ("1-2", (1, 2)),
    ],
)
def test_all_and_ranges_without_an_end(tmp_path, layers, expected):
    source = saved(tmp_path, LLAMA)
    assert layers_of(source, layers) == expected
    assert layers_of({**source, "weights": {"path": "/nowhere"}}, layers, blocks=4) == expected
    assert loaded(source, layers, train_layers="all").models["m"].trained_layers == expected


def gguf(path: Path, *settings: tuple[str, int, bytes]) -> None:
    """A header as the format's description has it: counts, then name, type and value of each setting."""
    text = lambda value: struct.pack("<Q", len(value)) + value.encode()  # noqa: E731
    written = b"".join(text(name) + struct.pack("<I", kind) + value for name, kind, value in settings)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, len(settings)) + written)


def test_a_gguf_file_says_so_before_its_tokenizer(tmp_path):
    words = struct.pack("<IQ", 8, 2) + 2 * (struct.pack("<Q", 1) + b"a")
    nested = struct.pack("<IQ", 9, 1) + struct.pack("<IQ", 4, 3) + bytes(12)
    gguf(
        tmp_path / "m.gguf",
        ("general.name", 8, struct.pack("<Q", 3) + b"toy"),
        ("a.words", 9, words),
        ("a.nested", 9, nested),
        ("a.flag", 7, b"\1"),
        ("llama.block_count", 4, struct.pack("<I", 4)),
        ("llama.embedding_length", 10, struct.pack("<Q", 64)),
        ("tokenizer.broken", 99, b""),
    )
    source = {"family": "transformers", "weights": {"path": str(tmp_path)}, "gguf_file": "m.gguf"}
    config = loaded(source)
    assert config.models["m"].layers == (1, 2, 3, 4)
    assert known_size(config.models["m"].source)[:2] == (4, 64)
    whole = (tmp_path / "m.gguf").read_bytes()
    for content in (b"", whole[:30], b"GGUF", b"GGML" + whole[4:], whole[:60], b"\0" * 99):
        (tmp_path / "m.gguf").write_bytes(content)
        with pytest.raises(UserError, match="number of blocks is not known"):
            loaded(source)


def test_of_files_all_are_those_that_are_listed():
    source = {"family": "arrays", "files": {0: "a.npy", 3: "b.npy", 7: "c.npy"}}
    assert layers_of(source) == (0, 3, 7)
    assert layers_of(source, "1-") == (3, 7)
    with pytest.raises(UserError, match=r"models\.m\.blocks: the family 'arrays' has the layers of its files"):
        loaded(source, blocks=7)
    with pytest.raises(UserError, match=r"models\.m\.layers: '8-' begins after the last layer, 7"):
        loaded(source, "8-")


def test_what_families_know_of_themselves(tmp_path):
    url = "https://dl.fbaipublicfiles.com/fair-esm/models/esm2_t33_650M_UR50D.pt"
    esm2 = loaded({"family": "esm2", "weights": {"url": url}})
    assert esm2.models["m"].layers == tuple(range(1, 34))
    assert known_size(esm2.models["m"].source) == Size(33, 1280)
    spliceai = {"family": "spliceai", "weights": {"path": "x.h5"}}
    assert layers_of(spliceai) == tuple(range(1, 17))
    assert layers_of({"family": "alphafold3", "inputs": "i", "outputs": "o"}) == (0,)
    module = {"family": "module", "factory": "a:b", "prepare": "a:c", "hooks": ["x", "y"]}
    assert layers_of(module) == (1, 2)


@pytest.mark.parametrize(
    "source",
    [
        {"family": "transformers", "weights": {"path": "/nowhere"}},
        {"family": "transformers", "weights": {"hf": "org/none", "revision": "a" * 40}},
        {"family": "transformers", "weights": {"url": "https://example.org/model.zip"}},
        {"family": "module", "factory": "a:b", "prepare": "a:c", "hooks": "blocks.{layer}"},
        {"family": "plugin", "file": {"path": "own.py"}},
        {"family": "esm2", "weights": {"path": "my_own.pt"}},
    ],
)
def test_where_nothing_says_so_the_message_does(source, tmp_path, monkeypatch):
    monkeypatch.setenv("SAELIB_CACHE", str(tmp_path))
    for layers in ("all", "2-"):
        with pytest.raises(UserError, match=r"1 mistake\n  models\.m\.layers: the .* as `blocks: 12`.*such as 1-12"):
            loaded(source, layers)
    assert layers_of(source, "2-", blocks=3) == (2, 3)
    assert layers_of(source, "2-9") == tuple(range(2, 10))


@pytest.mark.parametrize("content", ["", "[1]", "{", '{"num_hidden_layers": "4"}', '{"num_hidden_layers": [4]}', "\0"])
def test_configs_that_say_nothing_are_left_to_the_loader(tmp_path, content):
    source = saved(tmp_path, LLAMA)
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match="number of blocks is not known"):
        loaded(source)
    assert layers_of(source, "1-99")[-1] == 99


def test_an_encoder_decoder_has_no_one_number(tmp_path):
    with pytest.raises(UserError, match="number of blocks is not known"):
        loaded(saved(tmp_path, LLAMA | {"is_encoder_decoder": True}))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"layers": "2-6"}, r"models\.m\.layers: there is no layer 5-6: .*config\.json says that the last is 4"),
        ({"layers": "5-"}, r"models\.m\.layers: '5-' begins after the last layer, 4"),
        ({"layers": 2, "blocks": 12}, r"models\.m\.blocks: 12, but .*config\.json says 4; either"),
        ({"layers": 2, "width": 65}, r"models\.m\.width: 65, but .*config\.json says 64; either"),
        ({"layers": "all", "representative_layer": 5}, r"representative_layer 5 is not among layers 1-4"),
        ({"layers": "all", "train_layers": "3-9"}, r"train_layers 5-9 is not among layers 1-4"),
    ],
)
def test_mistakes_are_seen_before_a_model_is_loaded(tmp_path, model, message):
    with pytest.raises(UserError, match=message):
        loaded(saved(tmp_path, LLAMA), **model)


def test_a_stated_number_of_blocks_bounds_the_layers():
    source = {"family": "transformers", "weights": {"path": "/nowhere"}}
    with pytest.raises(UserError, match=r"models\.m\.layers: there is no layer 13: blocks says that the last is 12"):
        loaded(source, "1-13", blocks=12)


@pytest.mark.parametrize("layers", ["all", "1-"])
def test_a_wrong_source_is_the_only_mistake(layers: str):
    with pytest.raises(UserError, match=r"1 mistake\n  models\.m\.source\.weights: needs one of the keys"):
        loaded({"family": "transformers", "weights": {}}, layers, representative_layer=3)


def test_wrong_layers_are_the_only_mistake():
    with pytest.raises(UserError, match=r"1 mistake\n  models\.m\.layers: 'five' is not a layer number"):
        loaded({"family": "transformers", "weights": {"path": "/nowhere"}}, "five", train_layers="3-")
