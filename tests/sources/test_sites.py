"""What attention and MLP add to the stream in first and last block: by their sum, and by the models' own modules."""

import numpy as np
import pytest
import torch

from saelib.config.sites import LayerSite
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources.base import recorded
from tests.sources.test_transformers_architectures import ARCHITECTURES, N_LAYERS, USUAL, saved
from tests.sources.test_transformers_vision import MODELS, checkpoints, opened, pictures, save

__all__ = ["checkpoints", "save", "saved"]

ENDS = (1, N_LAYERS)
WITHOUT = {  # no attention in the first block, or a first block that adds more
    "rwkv": "do not add up to its output",  # its first block norms the embeddings
    "mamba": "no attention_out; MambaBlock is made of norm, mixer,",
    "mamba2": "no attention_out; Mamba2Block is made of norm, mixer,",
    "lfm2": "no attention_out; Lfm2DecoderLayer is made of conv, feed_forward, operator_norm, ffn_norm,",
    "recurrent_gemma": "no attention_out; RecurrentGemmaDecoderLayer is made of temporal_pre_norm, temporal_block,",
}
NORMED = {  # the stream after attention and after MLP, by the block's own norms
    **dict.fromkeys(
        ("bert", "roberta", "electra", "deberta"),
        (lambda block: block.attention.output.LayerNorm, lambda block: block.output.LayerNorm),
    ),
    "mpnet": (lambda block: block.attention.LayerNorm, lambda block: block.output.LayerNorm),
    "distilbert": (lambda block: block.sa_layer_norm, lambda block: block.output_layer_norm),
}
SUMS = [name for name in ARCHITECTURES if name not in WITHOUT and name not in NORMED]


def bert_mlp(block, middle):
    return block.output.dense(block.intermediate(middle))


# The MLP's output from the stream after attention (as it is, or normed), by the block's own modules.
MLPS = {
    "gpt2": lambda block, middle: block.mlp(block.ln_2(middle)),
    "gpt_neo": lambda block, middle: block.mlp(block.ln_2(middle)),
    "opt": lambda block, middle: block.fc2(block.activation_fn(block.fc1(block.final_layer_norm(middle)))),
    "bloom": lambda block, middle: block.mlp(block.post_attention_layernorm(middle), torch.zeros_like(middle)),
    "mpt": lambda block, middle: block.ffn(block.norm_2(middle), torch.zeros_like(middle)),
    "llama": lambda block, middle: block.mlp(block.post_attention_layernorm(middle)),
    "qwen3": lambda block, middle: block.mlp(block.post_attention_layernorm(middle)),
    "gemma2": lambda block, middle: block.post_feedforward_layernorm(
        block.mlp(block.pre_feedforward_layernorm(middle))
    ),
    "olmo2": lambda block, middle: block.post_feedforward_layernorm(block.mlp(middle)),
    "modernbert": lambda block, middle: block.mlp(block.mlp_norm(middle)),
    "esm": lambda block, middle: block.output.dense(block.intermediate(block.LayerNorm(middle))),
    "distilbert": lambda block, middle: block.ffn(middle),
    **dict.fromkeys(("bert", "roberta", "electra", "deberta", "mpnet"), bert_mlp),
}


def close(found, expected):
    scale = float(np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-6 * max(1.0, scale))


def at_the_ends(source, examples):
    """Layer -> the stream before and after its block, and what its attention and MLP add."""
    layers = [0, *range(1, N_LAYERS + 1)]
    sites = [LayerSite(layer, site) for layer in ENDS for site in ("attention_out", "mlp_out")]
    found = source.forward(examples, [*layers, *sites])
    assert set(found.layers) == {*layers, *sites}
    acts = found.layers
    return {i: (acts[i - 1], acts[i], acts[i, "attention_out"], acts[i, "mlp_out"]) for i in ENDS}


def blocks_of(model):
    from saelib.sources.loading.pretrained import find_blocks

    return find_blocks(model, "model")


@pytest.mark.parametrize("name", SUMS)
def test_attention_and_mlp_are_all_that_a_block_adds(name, saved, open_text, sentences, examples):
    found = at_the_ends(open_text(saved(name)[0]), examples(*sentences))
    for before, after, attention, mlp in found.values():
        close(before + attention + mlp, after)
        assert min(np.abs(attention).max(), np.abs(mlp).max()) > 1e-3


@pytest.mark.parametrize("name", NORMED)
def test_a_block_that_norms_sums_norms_these(name, saved, open_text, sentences, examples):
    folder, model = saved(name)
    for layer, (before, after, attention, mlp) in at_the_ends(open_text(folder), examples(*sentences)).items():
        first, second = (norm(blocks_of(model)[layer - 1]) for norm in NORMED[name])
        with torch.no_grad():
            expected = second(first(torch.from_numpy(before + attention)) + torch.from_numpy(mlp)).numpy()
        np.testing.assert_allclose(after, expected, atol=5e-5)


@pytest.mark.parametrize("name", MLPS)
def test_the_mlp_is_the_blocks_own(name, saved, open_text, sentences, examples):
    folder, model = saved(name)
    for layer, (before, _, attention, mlp) in at_the_ends(open_text(folder), examples(*sentences)).items():
        block, middle = blocks_of(model)[layer - 1], torch.from_numpy(before + attention)
        with torch.no_grad():
            middle = NORMED[name][0](block)(middle) if name in NORMED else middle
            close(mlp, MLPS[name](block, middle[None])[0].numpy())


@pytest.mark.parametrize("name", WITHOUT)
def test_a_block_without_an_attention_says_what_it_has(name, saved, open_text, sentences, examples):
    with pytest.raises(UserError, match=f"layer 1: .*{WITHOUT[name]}"):
        open_text(saved(name)[0]).forward(examples(*sentences), [LayerSite(1, "attention_out")])


@pytest.mark.parametrize("arguments", [{"residual_multiplier": 0.3}, {}])
def test_a_factor_of_the_block_is_part_of_what_it_adds(arguments, saved, open_text, sentences, examples):
    source = open_text(saved("GraniteConfig", {**USUAL, "num_key_value_heads": 2, **arguments})[0])
    for before, after, attention, mlp in at_the_ends(source, examples(*sentences)).values():
        close(before + attention + mlp, after)


def test_sites_alone_are_the_same_with_any_padding_and_in_parts(saved, open_text, sentences, examples):
    folder, _ = saved("llama")
    sites = [LayerSite(2, "mlp_out"), LayerSite(1, "attention_out")]
    together = open_text(folder).forward(examples(*sentences), sites)
    in_parts = open_text(folder, batch_tokens=4).forward(examples(*sentences), sites)
    for site in sites:
        close(in_parts.layers[site], together.layers[site])
    assert list(in_parts.layers) == sites


def test_a_pass_without_a_site_leaves_no_hook(saved, open_text, sentences, examples):
    source = open_text(saved("llama")[0])
    source.forward(examples(*sentences), [LayerSite(1, "mlp_out")])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in source._model.modules())


@pytest.mark.parametrize("name", MODELS)
def test_layer_scales_are_part_of_what_a_vision_block_adds(checkpoints, name):
    shown = [Example(str(i), "", one) for i, one in enumerate(pictures(2, 16))]
    for before, after, attention, mlp in at_the_ends(opened(checkpoints[name]), shown).values():
        close(before + attention + mlp, after)
        assert min(np.abs(attention).max(), np.abs(mlp).max()) > 1e-3


def test_the_embeddings_have_no_other_site(saved, open_text, sentences, examples):
    with pytest.raises(UserError, match="layer 0 is the embeddings, which have no mlp_out; ask for layer 1 or later"):
        open_text(saved("llama")[0]).forward(examples(*sentences), [LayerSite(0, "mlp_out")])
    with pytest.raises(UserError, match="has no layer 9 mlp_out; its layers are 0 to 3"):
        open_text(saved("llama")[0]).forward(examples(*sentences), [LayerSite(9, "mlp_out")])


class Leaky(torch.nn.Module):
    """A block that scales what its MLP adds by a factor that no known name tells."""

    def __init__(self):
        super().__init__()
        self.attn, self.mlp = torch.nn.Linear(8, 8), torch.nn.Linear(8, 8)
        self.runs_attention = True

    def forward(self, x):
        x = x + self.attn(x) if self.runs_attention else x
        return x + 0.5 * self.mlp(x)


@pytest.mark.parametrize("site", ["attention_out", "mlp_out"])
def test_what_does_not_add_up_is_refused(site):
    message = r"model: layer 1: .*outputs of .*do not add up to its output \(off by \d+%"
    with pytest.raises(UserError, match=message), recorded([block := Leaky()], [LayerSite(1, site)], "model"):
        block(torch.randn(2, 3, 8))


def test_a_sublayer_that_does_not_run_is_named():
    block = Leaky()
    block.runs_attention = False
    message = "model: layer 1: its attn did not run, so there is no attention_out"
    with pytest.raises(UserError, match=message), recorded([block], [LayerSite(1, "attention_out")], "model"):
        block(torch.randn(2, 3, 8))
