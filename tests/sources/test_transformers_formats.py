"""Checkpoints as they were published years ago, in the file formats and names of their time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from esm.data import Alphabet
from esm.model.esm2 import ESM2
from safetensors.torch import save_file
from transformers import AutoModel, GPT2Config, GPT2LMHeadModel, GPTNeoXConfig, GPTNeoXForCausalLM

from saelib.errors import UserError

VOCABULARY = 19


def states(model: torch.nn.Module, ids: list[int]) -> tuple[list[np.ndarray], np.ndarray]:
    """Hidden states and the last, normed one of a model in memory."""
    with torch.no_grad():
        out = model(torch.tensor([ids]), output_hidden_states=True)
    return [state[0].numpy() for state in out.hidden_states], out.last_hidden_state[0].numpy()


def check(source, model, norm, examples, sentences) -> None:
    """The source's layers are the hidden states of `model`, each sentence alone."""
    acts = source.forward(examples(*sentences), range(4))
    start = 0
    for text, count in zip(sentences, acts.tokens_per_example, strict=True):
        expected, last = states(model, source._tokenize(text).own)
        for layer in range(3):
            np.testing.assert_allclose(acts.layers[layer][start : start + count], expected[layer], atol=2e-5)
        with torch.no_grad():
            normed = norm(torch.from_numpy(acts.layers[3][start : start + count])).numpy()
        np.testing.assert_allclose(normed, last, atol=2e-5)
        start += count


def write(folder: Path, weights: dict[str, torch.Tensor], kind: str) -> None:
    if kind == "bin":
        torch.save(weights, folder / "pytorch_model.bin")
    elif kind == "safetensors":
        save_file(weights, folder / "model.safetensors", {"format": "pt"})
    else:
        names = sorted(weights)
        parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
        for part, keys in parts.items():
            save_file({key: weights[key] for key in keys}, folder / part, {"format": "pt"})
        index = {"metadata": {}, "weight_map": {key: part for part, keys in parts.items() for key in keys}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))


KINDS = ["bin", "safetensors", "several"]


@pytest.mark.parametrize("kind", KINDS)
def test_gpt2_of_2019(kind, tmp_path, save_tokenizer, randomize, open_text, examples, sentences):
    """Keys without `transformer.`, the causal mask among them, and a config from before most of today's words."""
    config = {"vocab_size": VOCABULARY, "n_ctx": 64, "n_embd": 32, "n_head": 4, "n_layer": 3, "n_positions": 64}
    model = randomize(GPT2LMHeadModel(GPT2Config(**config))).transformer
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    weights |= {f"h.{i}.attn.bias": torch.ones(64, 64).tril()[None, None] for i in range(3)}
    write(tmp_path, weights, kind)
    (tmp_path / "config.json").write_text(
        json.dumps(config | {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "layer_norm_epsilon": 1e-05})
    )
    save_tokenizer(tmp_path)
    check(open_text(tmp_path), model, model.ln_f, examples, sentences)


@pytest.mark.parametrize("kind", KINDS)
def test_pythia_of_2023(kind, tmp_path, save_tokenizer, randomize, open_text, examples, sentences):
    """`rotary_pct` in the config; masks and rotary frequencies among the weights; float16, as Pythia came."""
    usual = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4}
    usual |= {"intermediate_size": 48, "max_position_embeddings": 64, "use_parallel_residual": True}
    rotary = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.25}
    whole = randomize(GPTNeoXForCausalLM(GPTNeoXConfig(**usual, rope_parameters=rotary)))
    whole.half().float()
    weights = {name: value.half() for name, value in whole.state_dict().items()}
    for i in range(3):
        place = f"gpt_neox.layers.{i}.attention"
        weights[f"{place}.bias"] = torch.ones(64, 64, dtype=torch.bool).tril()[None, None]
        weights[f"{place}.masked_bias"] = torch.tensor(-1e9)
        weights[f"{place}.rotary_emb.inv_freq"] = torch.tensor([1.0])
    write(tmp_path, weights, kind)
    config = {"rotary_pct": 0.25, "rotary_emb_base": 500, "model_type": "gpt_neox", "torch_dtype": "float16"}
    (tmp_path / "config.json").write_text(
        json.dumps(usual | config | {"architectures": ["GPTNeoXForCausalLM"], "transformers_version": "4.24.0"})
    )
    save_tokenizer(tmp_path)
    model = whole.gpt_neox
    check(open_text(tmp_path), model, model.final_layer_norm, examples, sentences)
    other = GPTNeoXConfig(**usual, rope_parameters=rotary | {"partial_rotary_factor": 1.0})
    everywhere = GPTNeoXForCausalLM(other)
    everywhere.load_state_dict(whole.state_dict())
    source = open_text(tmp_path)
    ids = source._tokenize(sentences[2]).own
    assert np.abs(states(everywhere.eval().gpt_neox, ids)[0][2] - states(model, ids)[0][2]).max() > 1e-2


SEQUENCES = ["MKVLAAGX", "ACDEFGHIKLMNPQRSTVWY", "W"]


@pytest.fixture
def facebook(randomize):
    """ESM2 as its authors' own package builds it, in small."""
    torch.manual_seed(0)
    model = ESM2(num_layers=3, embed_dim=32, attention_heads=4, alphabet=Alphabet.from_architecture("ESM-1b"))
    return randomize(model)


def ported(name: str) -> str:
    """A key of fair-esm under its name in transformers, as the port's published conversion has it."""
    for old, new in (
        ("embed_tokens", "embeddings.word_embeddings"),
        ("emb_layer_norm_after", "encoder.emb_layer_norm_after"),
        ("layers.", "encoder.layer."),
        ("self_attn.rot_emb", "attention.self.rotary_embeddings"),
        ("self_attn.q_proj", "attention.self.query"),
        ("self_attn.k_proj", "attention.self.key"),
        ("self_attn.v_proj", "attention.self.value"),
        ("self_attn.out_proj", "attention.output.dense"),
        ("self_attn_layer_norm", "attention.LayerNorm"),
        ("fc1", "intermediate.dense"),
        ("fc2", "output.dense"),
        ("final_layer_norm", "LayerNorm"),
    ):
        name = name.replace(old, new)
    return "esm." + name


@pytest.fixture
def port(tmp_path, facebook):
    """Files as on the hub: every layer's rotary frequencies, position ids, the heads; `vocab.txt` for the tokenizer."""
    state = facebook.state_dict()
    weights = {ported(name): value.clone() for name, value in state.items() if not name.startswith(("lm_", "contact"))}
    assert sum(name.endswith("inv_freq") for name in weights) == 3
    weights["esm.embeddings.position_ids"] = torch.arange(64)[None]
    weights |= {f"lm_head.dense.{part}": state[f"lm_head.dense.{part}"].clone() for part in ("weight", "bias")}
    weights |= {"esm.contact_head.regression.weight": torch.zeros(1, 12), "lm_head.bias": torch.zeros(33)}
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["EsmForMaskedLM"], "model_type": "esm", "vocab_size": 33, "hidden_size": 32,
        "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 128, "max_position_embeddings": 64,
        "position_embedding_type": "rotary", "token_dropout": True, "emb_layer_norm_before": False,
        "mask_token_id": 32, "pad_token_id": 1, "layer_norm_eps": 1e-05, "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0, "classifier_dropout": None, "esmfold_config": None,
        "is_folding_model": False, "vocab_list": None, "use_cache": True, "transformers_version": "4.25.0.dev0",
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "vocab.txt").write_text("\n".join(Alphabet.from_architecture("ESM-1b").all_toks))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "EsmTokenizer"}))
    return tmp_path


@pytest.mark.parametrize("special", [False, True])
def test_the_port_of_esm2_is_the_authors_model(special, port, facebook, open_text, examples):
    source = open_text(port, keep_special_tokens=special)
    acts = source.forward(examples(*SEQUENCES), range(4))
    read = facebook.alphabet.get_batch_converter()
    kept = slice(None) if special else slice(1, -1)
    for i, sequence in enumerate(SEQUENCES):
        _, _, ids = read([("", sequence)])
        with torch.no_grad():
            wanted = facebook(ids, repr_layers=range(4))["representations"]
        rows = slice(sum(acts.tokens_per_example[:i]), sum(acts.tokens_per_example[: i + 1]))
        for layer in range(3):
            np.testing.assert_allclose(acts.layers[layer][rows], wanted[layer][0, kept].numpy(), atol=5e-5)
        with torch.no_grad():
            normed = facebook.emb_layer_norm_after(torch.from_numpy(acts.layers[3][rows]))
        np.testing.assert_allclose(normed.numpy(), wanted[3][0, kept].numpy(), atol=5e-5)


def test_a_port_that_lacks_a_layers_weight_is_refused(port, open_text):
    from safetensors.torch import load_file

    weights = load_file(port / "model.safetensors")
    del weights["esm.encoder.layer.2.attention.self.key.bias"]
    save_file(weights, port / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="lacks 1 weights"):
        open_text(port)


def test_modernbert_reads_no_padding(tmp_path, save_tokenizer, randomize, open_text, examples, sentences):
    """Without a mask its numbers would differ, and no error would show it."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM

    config = ModernBertConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64, global_attn_every_n_layers=3, local_attention=4, pad_token_id=1, cls_token_id=0,
        sep_token_id=2,
    )  # fmt: skip
    randomize(ModernBertForMaskedLM(config)).save_pretrained(tmp_path)
    save_tokenizer(tmp_path, wrapped=True)
    source = open_text(tmp_path)
    acts = source.forward(examples(*sentences), [1, 2, 3])
    model = AutoModel.from_pretrained(tmp_path).eval()
    start = 0
    for text, count in zip(sentences, acts.tokens_per_example, strict=True):
        tokens = source._tokenize(text)
        expected, last = states(model, [*tokens.before, *tokens.own, *tokens.after])
        for layer in (1, 2):
            np.testing.assert_allclose(acts.layers[layer][start : start + count], expected[layer], atol=2e-5)
        with torch.no_grad():
            normed = model.final_norm(torch.from_numpy(acts.layers[3][start : start + count]))
        np.testing.assert_allclose(normed.numpy(), last, atol=2e-5)
        start += count
