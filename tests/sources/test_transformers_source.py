"""Laws for a text model of any architecture: special tokens, lengths, precision, devices, and wrong files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from transformers import (
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    MptConfig,
    MptForCausalLM,
    RobertaConfig,
    RobertaModel,
)

from saelib.config.files import LocalFiles
from saelib.config.sources import TransformersSource
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources import open_source

VOCABULARY = 19
SMALL = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LARGER = {**SMALL, "intermediate_size": 48, "max_position_embeddings": 64}
PADDED = {**LARGER, "pad_token_id": 1}

CHECKPOINTS = {
    "gpt2": (GPT2LMHeadModel, GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=64)),
    "llama": (LlamaForCausalLM, LlamaConfig(**LARGER, num_key_value_heads=2)),
    "neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**LARGER)),
    "mpt": (MptForCausalLM, MptConfig(vocab_size=VOCABULARY, d_model=32, n_layers=3, n_heads=4, max_seq_len=64)),
    "bert": (BertForMaskedLM, BertConfig(**LARGER)),
    "roberta": (RobertaModel, RobertaConfig(**PADDED)),
    "modernbert": (ModernBertForMaskedLM, ModernBertConfig(**PADDED, cls_token_id=0, sep_token_id=2)),
}


@pytest.fixture(scope="module")
def save(save_tokenizer, randomize):
    def _save(folder: Path, family: str) -> Path:
        torch.manual_seed(0)
        kind, config = CHECKPOINTS[family]
        randomize(kind(config)).save_pretrained(folder)
        save_tokenizer(folder, wrapped=family in ("bert", "roberta", "modernbert"))
        return folder

    return _save


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory, save):
    return {family: save(tmp_path_factory.mktemp(family), family) for family in CHECKPOINTS}


def test_special_tokens_are_dropped_but_seen_by_the_model(checkpoints, open_text, examples, sentences):
    kept = open_text(checkpoints["bert"]).forward(examples(*sentences), [2])
    dropped = open_text(checkpoints["bert"], keep_special_tokens=False).forward(examples(*sentences), [2])
    assert kept.tokens_per_example == [8, 5, 13]
    assert dropped.tokens_per_example == [6, 3, 11]
    edges = {0, 7, 8, 12, 13, 25}
    np.testing.assert_array_equal(dropped.layers[2], kept.layers[2][[i for i in range(26) if i not in edges]])


def test_a_beginning_of_text_token_is_special_and_an_unknown_word_is_not(
    tmp_path, save, save_tokenizer, open_text, examples
):
    folder = save(tmp_path, "llama")
    save_tokenizer(folder, bos=True)
    acts = open_text(folder, keep_special_tokens=False).forward(examples("the zebra sat"), [1])
    assert acts.tokens_per_example == [3]


def test_long_texts_are_cut_and_empty_ones_have_no_tokens(checkpoints, open_text, examples, sentences):
    acts = open_text(checkpoints["gpt2"], max_length=4).forward(examples(sentences[2], "", "cat"), [1])
    assert acts.tokens_per_example == [4, 0, 1]
    assert np.isfinite(acts.layers[1]).all()


def test_a_narrower_pass_still_gives_float32(checkpoints, open_text, examples, sentences):
    wide = open_text(checkpoints["llama"]).forward(examples(sentences[0]), [3]).layers[3]
    narrow = open_text(checkpoints["llama"], "bfloat16").forward(examples(sentences[0]), [3]).layers[3]
    assert narrow.dtype == np.float32
    assert 0 < np.abs(narrow - wide).max() < 0.1 * np.abs(wide).max()


def test_the_dtype_is_the_configs_and_not_the_checkpoints(tmp_path, save, open_text, examples, sentences):
    folder = save(tmp_path, "gpt2")
    AutoModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    values = open_text(folder).forward(examples(sentences[0]), [3]).layers[3]
    assert (values.view(np.uint32) & 0xFFFF).any()  # bits that bfloat16 does not have


@pytest.mark.parametrize("layers", [[4], [1, 7], [-1]])
def test_an_unknown_layer_names_the_models_range(checkpoints, layers, open_text, examples):
    with pytest.raises(UserError, match=r"no layer .*0 to 3"):
        open_text(checkpoints["gpt2"]).forward(examples("cat"), layers)


def test_images_are_refused(checkpoints, open_text):
    with pytest.raises(UserError, match="reads text"):
        open_text(checkpoints["gpt2"]).forward([Example("p", "p", np.zeros((2, 2, 3), np.uint8))], [1])


# Half of these run past their positions without an error: NeoX and Llama compute angles, ModernBERT too.
@pytest.mark.parametrize(
    ("family", "limit"),
    [("gpt2", 64), ("llama", 64), ("neox", 64), ("mpt", 64), ("bert", 64), ("roberta", 62), ("modernbert", 64)],
)
def test_a_length_beyond_the_models_positions_is_refused(checkpoints, family, limit, open_text, examples):
    with pytest.raises(UserError, match=f"at most {limit} tokens"):
        open_text(checkpoints[family], max_length=limit + 1)
    longest = open_text(checkpoints[family], max_length=limit).forward(examples("cat " * 100), [3])
    assert longest.tokens_per_example == [limit]
    split = open_text(checkpoints[family], max_length=limit, long="split", keep_special_tokens=False)
    assert split.forward(examples("cat " * 100), [3]).tokens_per_example == [100]


def test_a_length_beyond_the_tokenizers_is_refused(tmp_path, save, open_text):
    folder = save(tmp_path, "llama")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"model_max_length": 40}))
    with pytest.raises(UserError, match="max_length is 41, but the model reads at most 40 tokens"):
        open_text(folder, max_length=41)


def test_a_padding_token_the_model_does_not_know_is_not_used(tmp_path, save, open_text, examples, sentences):
    folder = save(tmp_path, "llama")
    expected = open_text(folder).forward(examples(*sentences), [3]).layers[3]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "[new]"})
    tokenizer.save_pretrained(folder)
    np.testing.assert_array_equal(open_text(folder).forward(examples(*sentences), [3]).layers[3], expected)
    with pytest.raises(UserError, match="the tokenizer returns token 19, but the model has 19"):
        open_text(folder).forward(examples("the [new] cat"), [1])


def test_any_device_map_gives_the_same(checkpoints, open_text, examples, sentences):
    expected = open_text(checkpoints["neox"]).forward(examples(*sentences), range(4))
    for device_map in ("auto", "balanced", "sequential"):
        acts = open_text(checkpoints["neox"], device_map=device_map).forward(examples(*sentences), range(4))
        for layer in range(4):
            np.testing.assert_array_equal(acts.layers[layer], expected.layers[layer])


@pytest.mark.parametrize("elsewhere", ["embed_in", "layers.0", "layers.2"])
def test_parts_that_lie_elsewhere_are_brought_when_needed(
    checkpoints, elsewhere, open_text, examples, sentences, monkeypatch
):
    """Imitates a machine whose GPUs have no room for one part, which accelerate then reads from disk in each pass."""
    expected = open_text(checkpoints["neox"]).forward(examples(*sentences), range(4))
    parts = ["embed_in", "rotary_emb", "layers.0", "layers.1", "layers.2", "final_layer_norm", "emb_dropout"]
    places = {part: "disk" if part == elsewhere else "cpu" for part in parts}
    monkeypatch.setattr("transformers.integrations.accelerate.infer_auto_device_map", lambda *args, **kwargs: places)
    source = open_text(checkpoints["neox"], device_map="auto")
    assert {parameter.device.type for parameter in source._model.parameters()} == {"cpu", "meta"}
    acts = source.forward(examples(*sentences), range(4))
    for layer in range(4):
        np.testing.assert_array_equal(acts.layers[layer], expected.layers[layer])


def test_an_unknown_device_is_refused(checkpoints):
    config = TransformersSource(family="transformers", weights=LocalFiles(path=checkpoints["gpt2"]))
    with pytest.raises(UserError, match="device 'cuda:99'"):
        open_source(config, "cuda:99")


def test_an_older_transformers_is_refused(checkpoints, open_text, monkeypatch):
    monkeypatch.setattr("saelib.sources.loading.pretrained.transformers.__version__", "4.48.1")
    with pytest.raises(UserError, match=r"needs transformers 5, but .* has 4\.48\.1"):
        open_text(checkpoints["gpt2"])


def test_a_checkpoint_with_missing_weights_is_refused(tmp_path, save, open_text):
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path, "llama")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights"):
        open_text(folder)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("model.safetensors", None),
        ("model.safetensors", b"garbage"),
        ("model.safetensors", b""),
        ("config.json", b"{"),
        ("config.json", b'{"model_type": "llama", "hidden_size": "wide"}'),
        ("config.json", b'{"model_type": "no_such_model"}'),
        ("tokenizer.json", b"{"),
        ("tokenizer.json", None),
    ],
)
def test_a_broken_file_is_one_clear_message(tmp_path, save, open_text, file, content):
    folder = save(tmp_path, "llama")
    (folder / file).write_bytes((folder / file).read_bytes()[:-1000] if content is None else content)
    with pytest.raises(UserError, match=r"cannot load|not valid JSON") as caught:
        open_text(folder)
    assert "\n" not in str(caught.value)


def test_weights_of_another_shape_are_refused(tmp_path, save, open_text):
    folder = save(tmp_path, "llama")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(UserError, match="cannot load"):
        open_text(folder)
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": "wide"}))
    with pytest.raises(UserError, match=r"'hidden_size': TypeError.* expected int, got str"):
        open_text(folder)


def test_pickled_objects_are_not_built(tmp_path, save, open_text):
    folder = save(tmp_path, "gpt2")
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    torch.save({"wte.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled objects"):
        open_text(folder)
    assert not marker.exists()


def test_what_is_no_model_is_refused(tmp_path, open_text):
    with pytest.raises(UserError, match="cannot load"):
        open_text(tmp_path)
    with pytest.raises(UserError, match=r"no file 'x\.gguf'"):
        open_text(tmp_path, gguf_file="x.gguf")
