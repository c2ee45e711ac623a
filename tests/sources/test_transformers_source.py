"""Layers are what the model itself calls its hidden states; padding, batching and special tokens leave no trace."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AlbertModel,
    AutoModel,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertModel,
    EsmConfig,
    EsmForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    ModernBertConfig,
    ModernBertModel,
    OPTConfig,
    OPTModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
    T5Config,
    T5Model,
)

from saelib.config.files import LocalFiles
from saelib.config.sources import TransformersSource
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources import open_source

torch.set_num_threads(2)

TEXTS = ["the cat sat on a mat", "two dogs run", "and the cat saw two dogs run far away from home"]
WORDS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", *TEXTS[2].split(), "sat", "on", "a", "mat"]
SMALL = {"vocab_size": len(WORDS), "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
LARGER = {**SMALL, "intermediate_size": 48, "max_position_embeddings": 64}
PADDED = {**LARGER, "pad_token_id": 1}

# Model class, config, where transformers keeps the norm that it applies after the last block.
CHECKPOINTS = {
    "gpt2": (
        GPT2LMHeadModel,
        GPT2Config(vocab_size=len(WORDS), n_embd=32, n_layer=3, n_head=4, n_positions=64),
        "ln_f",
    ),
    "llama": (LlamaForCausalLM, LlamaConfig(**LARGER, num_key_value_heads=2), "norm"),
    "neox": (GPTNeoXForCausalLM, GPTNeoXConfig(**LARGER), "final_layer_norm"),
    "opt": (
        OPTModel,
        OPTConfig(**SMALL, ffn_dim=48, max_position_embeddings=64, word_embed_proj_dim=32),
        "decoder.final_layer_norm",
    ),
    "bert": (BertForMaskedLM, BertConfig(**LARGER), None),
    "roberta": (RobertaModel, RobertaConfig(**PADDED), None),
    "distilbert": (
        DistilBertModel,
        DistilBertConfig(
            vocab_size=len(WORDS), dim=32, n_layers=3, n_heads=4, hidden_dim=48, max_position_embeddings=64
        ),
        None,
    ),
    "modernbert": (
        ModernBertModel,
        ModernBertConfig(**PADDED, global_attn_every_n_layers=2, cls_token_id=0, sep_token_id=2),
        "final_norm",
    ),
    "esm": (
        EsmForMaskedLM,
        EsmConfig(**PADDED, position_embedding_type="rotary", emb_layer_norm_before=False, token_dropout=False),
        "encoder.emb_layer_norm_after",
    ),
}


def save_tokenizer(folder: Path, *, bos: bool = False, wrapped: bool = False) -> None:
    """One token a word; `bos` puts [CLS] in front, `wrapped` [SEP] behind too."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos or wrapped:
        template = "[CLS] $A [SEP]" if wrapped else "[CLS] $A"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
        )
    # Decoders come without a padding token.
    options = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"} if wrapped else {}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **options).save_pretrained(folder)


def save(folder: Path, family: str) -> Path:
    """A checkpoint as its trainer would save it, with weights large enough to matter."""
    torch.manual_seed(0)
    kind, config, _ = CHECKPOINTS[family]
    model = kind(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    save_tokenizer(folder, wrapped=family in ("bert", "roberta", "distilbert", "modernbert", "esm"))
    return folder


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    return {family: save(tmp_path_factory.mktemp(family), family) for family in CHECKPOINTS}


@cache
def opened(folder: Path, dtype: str = "float32", **options):
    config = TransformersSource(
        family="transformers",
        weights=LocalFiles(path=folder),
        **{"max_length": 32, "keep_special_tokens": True, **options},
    )
    return open_source(config, "cpu", dtype)


def examples(*texts: str) -> list[Example]:
    return [Example(str(i), str(i), text) for i, text in enumerate(texts)]


def reference(folder: Path, text: str):
    """The model's own account of one text alone: its hidden states, its last hidden state, and the model."""
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids = PreTrainedTokenizerFast.from_pretrained(folder)(text, return_tensors="pt")
    with torch.no_grad():
        out = model(input_ids=ids["input_ids"], attention_mask=ids["attention_mask"], output_hidden_states=True)
    return [state[0].numpy() for state in out.hidden_states], out.last_hidden_state[0].numpy(), model


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_layers_are_the_models_own_hidden_states(checkpoints, family):
    source = opened(checkpoints[family])
    states, last, model = reference(checkpoints[family], TEXTS[0])
    assert source.n_layers == 3
    acts = source.forward(examples(TEXTS[0]), range(4))
    for layer in range(3):
        np.testing.assert_allclose(acts.layers[layer], states[layer], atol=1e-5)
    norm_path = CHECKPOINTS[family][2]
    norm = model.get_submodule(norm_path) if norm_path else torch.nn.Identity()
    with torch.no_grad():
        normed = norm(torch.from_numpy(acts.layers[3])).numpy()
    np.testing.assert_allclose(normed, last, atol=1e-5)
    if norm_path:
        assert np.abs(acts.layers[3] - last).max() > 0.1


@pytest.mark.parametrize("family", CHECKPOINTS)
def test_padding_and_batch_size_have_no_effect(checkpoints, family):
    source = opened(checkpoints[family])
    together = source.forward(examples(*TEXTS), [0, 2, 3])
    alone = [source.forward(examples(text), [0, 2, 3]) for text in TEXTS]
    assert together.tokens_per_example == [one.tokens_per_example[0] for one in alone]
    for layer in (0, 2, 3):
        assert together.layers[layer].dtype == np.float32
        assert together.layers[layer].shape[1] == source.d_in(layer) == 32
        np.testing.assert_allclose(
            together.layers[layer], np.concatenate([one.layers[layer] for one in alone]), atol=1e-5
        )


def test_special_tokens_are_dropped_but_seen_by_the_model(checkpoints):
    kept = opened(checkpoints["bert"]).forward(examples(*TEXTS), [2])
    dropped = opened(checkpoints["bert"], keep_special_tokens=False).forward(examples(*TEXTS), [2])
    assert kept.tokens_per_example == [8, 5, 13]
    assert dropped.tokens_per_example == [6, 3, 11]
    edges = {0, 7, 8, 12, 13, 25}
    np.testing.assert_array_equal(dropped.layers[2], kept.layers[2][[i for i in range(26) if i not in edges]])


def test_a_beginning_of_text_token_is_special_and_an_unknown_word_is_not(checkpoints, tmp_path):
    folder = save(tmp_path, "llama")
    save_tokenizer(folder, bos=True)
    acts = opened(folder, keep_special_tokens=False).forward(examples("the zebra sat"), [1])
    assert acts.tokens_per_example == [3]


def test_long_texts_are_cut_and_empty_ones_have_no_tokens(checkpoints):
    acts = opened(checkpoints["gpt2"], max_length=4).forward(examples(TEXTS[2], "", "cat"), [1])
    assert acts.tokens_per_example == [4, 0, 1]
    assert np.isfinite(acts.layers[1]).all()


def test_a_narrower_pass_still_gives_float32(checkpoints):
    wide = opened(checkpoints["llama"]).forward(examples(TEXTS[0]), [3]).layers[3]
    narrow = opened(checkpoints["llama"], "bfloat16").forward(examples(TEXTS[0]), [3]).layers[3]
    assert narrow.dtype == np.float32
    assert 0 < np.abs(narrow - wide).max() < 0.1 * np.abs(wide).max()


def test_the_dtype_is_the_configs_and_not_the_checkpoints(tmp_path):
    folder = save(tmp_path, "gpt2")
    AutoModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(folder)
    values = opened(folder).forward(examples(TEXTS[0]), [3]).layers[3]
    assert (values.view(np.uint32) & 0xFFFF).any()  # bits that bfloat16 does not have


@pytest.mark.parametrize("layers", [[4], [1, 7], [-1]])
def test_an_unknown_layer_names_the_models_range(checkpoints, layers):
    with pytest.raises(UserError, match=r"no layer .*0 to 3"):
        opened(checkpoints["gpt2"]).forward(examples("cat"), layers)


def test_images_are_refused(checkpoints):
    with pytest.raises(UserError, match="reads text"):
        opened(checkpoints["gpt2"]).forward([Example("p", "p", np.zeros((2, 2, 3), np.uint8))], [1])


@pytest.mark.parametrize(("family", "limit"), [("gpt2", 64), ("llama", 64), ("roberta", 62)])
def test_a_length_beyond_the_models_positions_is_refused(checkpoints, family, limit):
    with pytest.raises(UserError, match=f"at most {limit} tokens"):
        opened(checkpoints[family], max_length=limit + 1)
    longest = opened(checkpoints[family], max_length=limit).forward(examples("cat " * 100), [3])
    assert longest.tokens_per_example == [limit]


def test_a_checkpoint_with_missing_weights_is_refused(checkpoints, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = save(tmp_path, "llama")
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights"):
        opened(folder)


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    folder = save(tmp_path, "gpt2")
    marker = tmp_path / "ran"
    (folder / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config", "AutoModel": "evil.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="cannot load"):
        opened(folder)
    assert not marker.exists()


def test_pickled_objects_are_not_built(tmp_path):
    folder = save(tmp_path, "gpt2")
    (folder / "model.safetensors").unlink()
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    torch.save({"wte.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled objects"):
        opened(folder)
    assert not marker.exists()


def test_what_is_no_model_or_of_no_known_shape_is_refused(tmp_path):
    with pytest.raises(UserError, match="cannot load"):
        opened(tmp_path)
    with pytest.raises(UserError, match=r"no file 'x\.gguf'"):
        opened(tmp_path, gguf_file="x.gguf")
    save_tokenizer(tmp_path)
    T5Model(T5Config(vocab_size=len(WORDS), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4)).save_pretrained(
        tmp_path
    )
    with pytest.raises(UserError, match="T5Model is an encoder-decoder"):
        opened(tmp_path)
    AlbertModel(AlbertConfig(**LARGER, embedding_size=16)).save_pretrained(tmp_path)  # one block, used three times
    with pytest.raises(UserError, match="AlbertModel keeps its blocks in none of the known places"):
        opened(tmp_path)


def test_an_unknown_device_is_refused(checkpoints):
    config = TransformersSource(family="transformers", weights=LocalFiles(path=checkpoints["gpt2"]))
    with pytest.raises(UserError, match="device 'cuda:99'"):
        open_source(config, "cuda:99")
