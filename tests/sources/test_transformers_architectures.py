"""Every common architecture, from a small checkpoint: layers are its hidden states, and padding leaves no trace."""

import numpy as np
import pytest
import torch
import transformers
from transformers import AutoModel, AutoTokenizer

from saelib.errors import UserError

N_LAYERS = 3
SMALL = {"hidden_size": 32, "num_hidden_layers": N_LAYERS, "num_attention_heads": 4}
USUAL = {**SMALL, "intermediate_size": 48, "max_position_embeddings": 64, "pad_token_id": 1}
GROUPED = {**USUAL, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2}
GPT = {"n_embd": 32, "n_layer": N_LAYERS, "n_head": 4, "n_positions": 64}
STATE_SPACE = {"hidden_size": 32, "num_hidden_layers": N_LAYERS, "state_size": 4}

# Config class, its arguments, and where transformers keeps the norm that it applies after the last block.
DECODERS = {
    "gpt2": ("GPT2Config", GPT, "ln_f"),
    "gptj": ("GPTJConfig", {**GPT, "rotary_dim": 4}, "ln_f"),
    "codegen": ("CodeGenConfig", {**GPT, "n_ctx": 64, "rotary_dim": 4}, "ln_f"),
    "gpt_bigcode": ("GPTBigCodeConfig", GPT, "ln_f"),
    "gpt_neo": (
        "GPTNeoConfig",
        {"hidden_size": 32, "num_layers": N_LAYERS, "num_heads": 4, "attention_types": [[["global"], 3]]},
        "ln_f",
    ),
    "neox": ("GPTNeoXConfig", USUAL, "final_layer_norm"),
    "opt": ("OPTConfig", {**SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}, "decoder.final_layer_norm"),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": N_LAYERS, "n_head": 4}, "ln_f"),
    "falcon": ("FalconConfig", SMALL, "ln_f"),
    "mpt": ("MptConfig", {"d_model": 32, "n_layers": N_LAYERS, "n_heads": 4, "max_seq_len": 64}, "norm_f"),
    "llama": ("LlamaConfig", GROUPED, "norm"),
    "mistral": ("MistralConfig", {**GROUPED, "sliding_window": 4}, "norm"),
    "mixtral": ("MixtralConfig", {**GROUPED, "num_local_experts": 4}, "norm"),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {**GROUPED, **EXPERTS, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
        "norm",
    ),
    "qwen3": ("Qwen3Config", HEADS, "norm"),
    "qwen3_moe": ("Qwen3MoeConfig", {**HEADS, **EXPERTS, "moe_intermediate_size": 16}, "norm"),
    "gemma": ("GemmaConfig", HEADS, "norm"),
    "gemma2": ("Gemma2Config", HEADS, "norm"),
    "gemma3": ("Gemma3TextConfig", HEADS, "norm"),
    "phi": ("PhiConfig", USUAL, "final_layernorm"),
    "phi3": ("Phi3Config", GROUPED, "norm"),
    "olmo2": ("Olmo2Config", GROUPED, "norm"),
    "olmoe": ("OlmoeConfig", {**GROUPED, **EXPERTS}, "norm"),
    "gpt_oss": ("GptOssConfig", {**HEADS, "num_local_experts": 4}, "norm"),
    "granite": ("GraniteConfig", GROUPED, "norm"),
    "cohere": ("CohereConfig", GROUPED, "norm"),
    "stablelm": ("StableLmConfig", GROUPED, "norm"),
    "starcoder2": ("Starcoder2Config", GROUPED, "norm"),
    "smollm3": ("SmolLM3Config", GROUPED, "norm"),
    "lfm2": ("Lfm2Config", {**GROUPED, "layer_types": ["conv", "full_attention", "conv"]}, "embedding_norm"),
    "recurrent_gemma": ("RecurrentGemmaConfig", {**SMALL, "intermediate_size": 48}, "final_norm"),
    "biogpt": ("BioGptConfig", USUAL, "layer_norm"),
    "rwkv": (
        "RwkvConfig",
        {"hidden_size": 32, "num_hidden_layers": N_LAYERS, "rescale_every": 0},
        "ln_out",
    ),
    "mamba": ("MambaConfig", STATE_SPACE, "norm_f"),
    "mamba2": ("Mamba2Config", {**STATE_SPACE, "num_heads": 4, "head_dim": 16, "n_groups": 1}, "norm_f"),
}
ENCODERS = {
    "bert": ("BertConfig", USUAL, None),
    "roberta": ("RobertaConfig", USUAL, None),
    "electra": ("ElectraConfig", {**USUAL, "embedding_size": 16}, None),
    "deberta": ("DebertaV2Config", USUAL, None),
    "mpnet": ("MPNetConfig", USUAL, None),
    "distilbert": ("DistilBertConfig", {"dim": 32, "n_layers": N_LAYERS, "n_heads": 4, "hidden_dim": 48}, None),
    "modernbert": ("ModernBertConfig", {**USUAL, "global_attn_every_n_layers": 2}, "final_norm"),
    "eurobert": ("EuroBertConfig", GROUPED, "norm"),
    "esm": (
        "EsmConfig",
        {**USUAL, "position_embedding_type": "rotary", "emb_layer_norm_before": False, "token_dropout": True}
        | {"mask_token_id": 3},
        "encoder.emb_layer_norm_after",
    ),
}
ARCHITECTURES = DECODERS | ENCODERS
NO_EMBEDDINGS = ("rwkv", "mamba", "mamba2")
"""Their list of hidden states begins with the first block's."""


@pytest.fixture
def saved(tmp_path, save_tokenizer, randomize, vocab_size):
    """Save an architecture by its name here, or by config class and arguments; give the folder and the model."""

    def save(kind, arguments=None):
        kind, arguments = (kind, arguments) if arguments is not None else ARCHITECTURES[kind][:2]
        torch.manual_seed(0)
        config = getattr(transformers, kind)(vocab_size=vocab_size, **arguments)
        model = randomize(AutoModel.from_config(config))
        model.save_pretrained(tmp_path)
        save_tokenizer(tmp_path, wrapped=kind in [encoder[0] for encoder in ENCODERS.values()])
        return tmp_path, model

    return save


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_layers_are_the_models_own_hidden_states_with_any_padding(name, saved, open_text, sentences, examples, device):
    folder, model = saved(name)
    source = open_text(folder, device=device)
    assert (source.n_layers, source.d_in(N_LAYERS)) == (N_LAYERS, 32)
    acts = source.forward(examples(*sentences), range(N_LAYERS + 1))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    norm = model.get_submodule(ARCHITECTURES[name][2]) if ARCHITECTURES[name][2] else torch.nn.Identity()
    shift = 1 if name in NO_EMBEDDINGS else 0
    start = 0
    for text, count in zip(sentences, acts.tokens_per_example, strict=True):
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            out = model(ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
            normed = norm(torch.from_numpy(acts.layers[N_LAYERS][start : start + count])).numpy()
        for layer in range(shift, N_LAYERS):
            expected = out.hidden_states[layer - shift][0].numpy()
            np.testing.assert_allclose(acts.layers[layer][start : start + count], expected, rtol=1e-4, atol=2e-5)
        np.testing.assert_allclose(normed, out.last_hidden_state[0].numpy(), rtol=1e-4, atol=2e-5)
        start += count


def test_a_stream_that_is_halved_on_the_way_is_not(saved, open_text, sentences, examples):
    """RWKV divides by 2 after every so many blocks, unless told not to."""
    arguments = {"hidden_size": 32, "num_hidden_layers": N_LAYERS, "rescale_every": 2}
    halving = open_text(saved("RwkvConfig", arguments)[0]).forward(examples(*sentences), [3])
    plain = open_text(saved("rwkv")[0]).forward(examples(*sentences), [3])
    np.testing.assert_allclose(halving.layers[3], plain.layers[3], rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        ("T5Config", {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}, "is an encoder-decoder"),
        ("AlbertConfig", {**USUAL, "embedding_size": 16}, "AlbertModel keeps its blocks in none of the known places"),
        ("XLNetConfig", {"d_model": 32, "n_layer": 3, "n_head": 4, "d_inner": 48}, "in none of the known places"),
        ("LongformerConfig", {**USUAL, "attention_window": 8}, "layer 1: the block returns"),
    ],
)
def test_other_shapes_are_refused_with_a_way_out(kind, arguments, message, saved, open_text, sentences, examples):
    with pytest.raises(UserError, match=f"{message}.*use family: module"):
        open_text(saved(kind, arguments)[0]).forward(examples(*sentences), [1])
