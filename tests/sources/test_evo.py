"""Evo-1, on a small checkpoint in the published format, against recurrences in float64 and the package stripedhyena."""

import importlib
import json
import logging
import math
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from saelib.config.files import LocalFiles, Wheel
from saelib.config.sources import EvoSource
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.fetch import fetch
from saelib.sources import open_source
from saelib.sources.networks.striped_hyena import StripedHyena

WIDTH, INNER, HEADS, STATES, TAPS, BLOCKS, ATTENTION = 32, 48, 4, 3, 3, 4, (2,)
CONFIG = {
    "architectures": ["StripedHyenaModelForCausalLM"], "model_type": "stripedhyena", "attn_layer_idxs": [*ATTENTION],
    "hyena_layer_idxs": [0, 1, 3], "column_split": False, "column_split_hyena": True, "eps": 1e-06, "final_norm": True,
    "hidden_size": WIDTH, "hyena_filter_groups": 1, "inference_mode": False, "inner_mlp_size": INNER,
    "make_vocab_size_divisible_by": 8, "max_seqlen": 256, "mha_out_proj_bias": True, "mlp_activation": "gelu",
    "model_parallel_size": 1, "num_attention_heads": HEADS, "num_filters": WIDTH, "num_layers": BLOCKS,
    "pipe_parallel_size": 1, "prefill_style": "fft", "proj_groups": 1, "qkv_proj_bias": True, "rotary_emb_base": 10000,
    "rotary_emb_scaling_factor": 1, "short_filter_bias": True, "short_filter_length": TAPS, "smeared_gqa": False,
    "split_k0": True, "state_size": STATES, "tie_embeddings": True, "torch_dtype": "bfloat16", "use_flash_attn": True,
    "use_flash_depthwise": False, "use_flash_rmsnorm": False, "use_flashfft": False,
    "use_interpolated_rotary_pos_emb": False, "vocab_size": 512,
}  # fmt: skip


def random_weights() -> dict[str, torch.Tensor]:
    """bfloat16 but for poles and residues; norms and biases of every kind far from one and zero."""
    torch.manual_seed(0)

    def linear(name, outputs, inputs, bias=True):
        found = {f"{name}.weight": torch.randn(outputs, inputs) / inputs**0.5}
        return found | ({f"{name}.bias": 0.3 * torch.randn(outputs)} if bias else {})

    weights = {"embedding_layer.weight": torch.randn(512, WIDTH), "norm.scale": 1 + 0.3 * torch.randn(WIDTH)}
    for i in range(BLOCKS):
        block = {"pre_norm.scale": 1 + 0.3 * torch.randn(WIDTH), "post_norm.scale": 1 + 0.3 * torch.randn(WIDTH)}
        block |= linear("mlp.l1", INNER, WIDTH, False) | linear("mlp.l2", INNER, WIDTH, False)
        block |= linear("mlp.l3", WIDTH, INNER, False)
        if i in ATTENTION:
            block |= linear("inner_mha_cls.Wqkv", 3 * WIDTH, WIDTH) | linear("inner_mha_cls.out_proj", WIDTH, WIDTH)
            block |= {"inner_mha_cls.rotary_emb.inv_freq": torch.full((WIDTH // HEADS // 2,), 7.0)}
        else:
            block |= linear("projections", 3 * WIDTH, WIDTH) | linear("out_filter_dense", WIDTH, WIDTH)
            poles = torch.polar(0.5 + 0.499 * torch.rand(WIDTH, STATES, 1), 6.28 * torch.rand(WIDTH, STATES, 1))
            block |= {
                "filter.D": torch.randn(WIDTH),
                "filter.short_filter_weight": torch.randn(3 * WIDTH, 1, TAPS) / TAPS**0.5,
                "filter.short_filter_bias": 0.3 * torch.randn(3 * WIDTH),
                "filter.poles": torch.view_as_real(poles).contiguous(),
                "filter.residues": 0.3 * torch.randn(WIDTH, STATES, 1, 2),
            }
        weights |= {f"blocks.{i}.{key}": value for key, value in block.items()}
    return {k: v if k.endswith(("poles", "residues")) else v.bfloat16() for k, v in weights.items()}


@pytest.fixture(scope="module")
def weights():
    return random_weights()


@pytest.fixture
def folder(tmp_path, weights):
    """Two shards and their index, names with the prefix of the hub's checkpoints."""
    names = sorted(f"backbone.{name}" for name in weights)
    shards = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, part in shards.items():
        save_file({name: weights[name.removeprefix("backbone.")] for name in part}, tmp_path / file, {"format": "pt"})
    index = {"metadata": {}, "weight_map": {name: file for file, part in shards.items() for name in part}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def opened(folder, dtype="float32", device="cpu", **options):
    options = {"max_length": 256, **options}
    return open_source(EvoSource(family="evo", weights=LocalFiles(path=folder), **options), device, dtype)


def dna(length, seed=1):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), size=length))


def examples(*sequences):
    return [Example(str(i), str(i), sequence) for i, sequence in enumerate(sequences)]


class Reference:
    """The network from its equations, in float64: filters as recurrences of their states, naive attention."""

    def __init__(self, weights, stretch=1.0):
        self.weights = {name: value.double().numpy() for name, value in weights.items()}
        self.stretch = stretch

    def run(self, letters):
        """The stream [tokens, channels] before the first block and after each."""
        stream = [self.weights["embedding_layer.weight"][list(letters.encode())]]
        for i in range(BLOCKS):
            w = {k.removeprefix(f"blocks.{i}."): v for k, v in self.weights.items() if k.startswith(f"blocks.{i}.")}
            normed = self.norm(stream[-1], w["pre_norm.scale"])
            x = stream[-1] + (self.attend(normed, w) if i in ATTENTION else self.hyena(normed, w))
            normed = self.norm(x, w["post_norm.scale"])
            gate = normed @ w["mlp.l1.weight"].T
            gate = gate * 0.5 * (1 + np.vectorize(math.erf)(gate / 2**0.5))
            stream.append(x + (gate * (normed @ w["mlp.l2.weight"].T)) @ w["mlp.l3.weight"].T)
        return stream

    @staticmethod
    def norm(x, scale):
        return x / (np.sqrt((x**2).mean(axis=-1, keepdims=True)) + 1e-6) * scale

    @staticmethod
    def linear(x, w, name):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def hyena(self, x, w):
        z = np.vstack([np.zeros((TAPS - 1, 3 * WIDTH)), self.linear(x, w, "projections")])
        taps = w["filter.short_filter_weight"][:, 0]
        z = sum(taps[:, k] * z[k : k + len(x)] for k in range(TAPS)) + w["filter.short_filter_bias"]
        x2, x1, v = np.moveaxis(z.reshape(len(x), HEADS, 3, -1), 2, 0).reshape(3, len(x), WIDTH)
        poles, residues = ((w[f"filter.{k}"] @ [1, 1j])[..., 0] for k in ("poles", "residues"))
        state = np.zeros((WIDTH, STATES), dtype=complex)
        y = np.empty_like(x)
        for t, signal in enumerate(x1 * v):
            state = poles * state + signal[:, None]
            y[t] = (residues * state).sum(axis=1).real + w["filter.D"] * signal
        return self.linear(y * x2, w, "out_filter_dense")

    def attend(self, x, w):
        size = WIDTH // HEADS
        qkv = self.linear(x, w, "inner_mha_cls.Wqkv").reshape(len(x), 3, HEADS, size)
        speed = 10_000.0 ** (-np.arange(0, size, 2) / size)
        turn = np.exp(1j * np.arange(len(x))[:, None] / self.stretch * speed)[:, None]
        query, key = (qkv[:, i, :, : size // 2] + 1j * qkv[:, i, :, size // 2 :] for i in (0, 1))
        scores = np.einsum("qhc,khc->hqk", query * turn, (key * turn).conj()).real / size**0.5
        scores = np.exp(np.where(np.tri(len(x), dtype=bool), scores, -np.inf))
        mixed = np.einsum("hqk,khc->qhc", scores / scores.sum(axis=-1, keepdims=True), qkv[:, 2])
        return self.linear(mixed.reshape(len(x), WIDTH), w, "inner_mha_cls.out_proj")


def test_every_layer_equals_the_recurrences_in_float64(folder, weights, device):
    letters = dna(90)
    stream = Reference(weights).run(letters)
    source = opened(folder, device=device)
    acts = source.forward(examples(letters), range(BLOCKS + 1))
    assert (source.n_layers, source.d_in(4), acts.tokens_per_example) == (BLOCKS, WIDTH, [90])
    for layer, expected in enumerate(stream):
        np.testing.assert_allclose(acts.layers[layer], expected, atol=1e-4 * np.abs(expected).max())


def test_interpolated_positions_as_in_the_131k_model(folder, weights):
    stretched = {**CONFIG, "use_interpolated_rotary_pos_emb": True, "rotary_emb_scaling_factor": 16}
    (folder / "config.json").write_text(json.dumps(stretched))
    expected = Reference(weights, stretch=16).run(dna(60))[BLOCKS]
    got = opened(folder).forward(examples(dna(60)), [BLOCKS]).layers[BLOCKS]
    np.testing.assert_allclose(got, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(got - Reference(weights).run(dna(60))[BLOCKS]).max() > 0.01


def test_company_padding_and_passes_leave_no_trace(folder):
    sequences = [dna(length, seed=length) for length in (40, 7, 23)]
    alone = [opened(folder).forward(examples(sequence), range(5)).layers for sequence in sequences]
    for options in ({}, {"batch_tokens": 50}):
        together = opened(folder, batch_size=3, **options).forward(examples(*sequences), range(5))
        assert together.tokens_per_example == [40, 7, 23]
        for layer in range(5):
            expected = np.concatenate([layers[layer] for layers in alone])
            np.testing.assert_allclose(together.layers[layer], expected, atol=2e-5 * np.abs(expected).max())


def test_a_token_depends_on_no_later_one(folder):
    """So long sequences that are cut have the activations of the whole ones."""
    letters = dna(100)
    whole = opened(folder).forward(examples(letters), [1, 4])
    cut = opened(folder, max_length=30).forward(examples(letters), [1, 4])
    parts = opened(folder, max_length=60, long="split").forward(examples(letters), [4])
    assert (cut.tokens_per_example, parts.tokens_per_example) == ([30], [100])
    for layer in (1, 4):
        np.testing.assert_allclose(cut.layers[layer], whole.layers[layer][:30], atol=1e-3)
    second = opened(folder).forward(examples(letters[60:]), [4])
    np.testing.assert_allclose(parts.layers[4][60:], second.layers[4], atol=1e-3)
    assert opened(folder, max_length=60, long="skip").forward(examples(letters, "ACG"), [4]).tokens_per_example == [
        0,
        3,
    ]


def test_all_layers_come_from_one_pass(folder, monkeypatch):
    calls = []
    forward = StripedHyena.forward
    monkeypatch.setattr(StripedHyena, "forward", lambda self, ids: calls.append(ids.shape) or forward(self, ids))
    opened(folder).forward(examples(dna(9), dna(5)), range(5))
    assert calls == [(2, 9)]


def test_bfloat16_keeps_the_poles_exact(folder, weights):
    """A pole of 0.9995 rounds to 1 in bfloat16, and its filter would no longer decay."""
    slow = torch.tensor([0.9995, 0.0]).expand(WIDTH, STATES, 1, 2).contiguous()
    changed = {f"backbone.{k}": slow.clone() if k.endswith("poles") else v for k, v in weights.items()}
    save_file(changed, folder / "model.safetensors")
    (folder / "model.safetensors.index.json").unlink()
    exact = opened(folder).forward(examples(dna(256)), [1]).layers[1][200:]
    rounded = opened(folder, dtype="bfloat16").forward(examples(dna(256)), [1]).layers[1][200:]
    assert rounded.dtype == np.float32
    assert 0 < np.linalg.norm(rounded - exact) < 0.02 * np.linalg.norm(exact)


@pytest.mark.parametrize("layer", [-1, 5])
def test_layers_beyond_either_end_are_refused(folder, layer):
    with pytest.raises(UserError, match=r"Evo .*its layers are 0 to 4"):
        opened(folder).forward(examples("ACGT"), [layer])


def test_length_beyond_the_config_is_logged(folder, caplog):
    with caplog.at_level(logging.WARNING):
        opened(folder, max_length=300)
    assert "max_length 300 is beyond the 256 tokens" in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, r"config\.json: not the config of an Evo-1 model: model_type"),
        ({"mlp_activation": "silu"}, "mlp_activation: Input should be 'gelu'"),
        ({"hyena_filter_groups": 4}, "hyena_filter_groups"),
        ({"state_size": None}, "state_size"),
        ({"num_layers": 5}, "weights do not fit its config"),
        ({"hidden_size": 64}, "weights do not fit its config"),
        ({"attn_layer_idxs": [1]}, "weights do not fit its config"),
    ],
)
def test_configs_of_other_networks_are_refused(folder, change, message):
    (folder / "config.json").write_text(json.dumps(CONFIG | change))
    with pytest.raises(UserError, match=message):
        opened(folder)


def test_incomplete_and_foreign_weights_are_refused(folder):
    shard = folder / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    with pytest.raises(UserError, match=shard.name):
        opened(folder)
    shard.unlink()
    with pytest.raises(UserError, match=shard.name):
        opened(folder)
    shard.write_bytes(whole)
    save_file(load_file(shard) | {"backbone.blocks.0.filter.h": torch.zeros(4)}, shard)
    with pytest.raises(UserError, match="weights do not fit its config"):
        opened(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        opened(folder)


class FlashAttentionStandIn(torch.nn.Module):
    """flash-attn's MHA, which needs a GPU, with torch's attention; as it computes for stripedhyena's arguments."""

    def __init__(self, embed_dim, num_heads, rotary_emb_dim, rotary_emb_base, **_):
        super().__init__()
        self.heads = num_heads
        self.Wqkv, self.out_proj = torch.nn.Linear(embed_dim, 3 * embed_dim), torch.nn.Linear(embed_dim, embed_dim)
        self.rotary_emb = torch.nn.Module()
        speed = 1 / (rotary_emb_base ** (torch.arange(0, rotary_emb_dim, 2) / rotary_emb_dim))
        self.rotary_emb.register_buffer("inv_freq", speed)

    def forward(self, x, inference_params=None):
        size = x.shape[-1] // self.heads
        q, k, v = self.Wqkv(x).reshape(*x.shape[:2], 3, self.heads, size).unbind(2)
        angles = torch.outer(torch.arange(x.shape[1]).float(), self.rotary_emb.inv_freq.float()).repeat(1, 2)[:, None]
        q, k = (
            y * angles.cos() + torch.cat((-y[..., size // 2 :], y[..., : size // 2]), -1) * angles.sin() for y in (q, k)
        )
        mixed = torch.nn.functional.scaled_dot_product_attention(
            *(y.transpose(1, 2).to(x.dtype) for y in (q, k, v)), is_causal=True
        )
        return self.out_proj(mixed.transpose(1, 2).reshape(x.shape))


@pytest.mark.models
@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.02)])
def test_the_package_stripedhyena_computes_the_same(folder, weights, monkeypatch, dtype, tolerance):
    pytest.importorskip("einops")
    wheel = Wheel(
        pypi="stripedhyena==0.2.2",
        wheel="stripedhyena-0.2.2-py3-none-any.whl",
        sha256="27286a9bcac5db72ad1412c3d4a91b0cf1b84f5334be30b250d6b545e1e63164",
    )
    monkeypatch.syspath_prepend(fetch(wheel))
    mha = ModuleType("flash_attn.modules.mha")
    vars(mha)["MHA"] = FlashAttentionStandIn
    for name in ("flash_attn", "flash_attn.modules"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, mha.__name__, mha)
    dotdict = importlib.import_module("stripedhyena.utils").dotdict
    theirs = importlib.import_module("stripedhyena.model").StripedHyena(
        dotdict(CONFIG, params_dtype=torch.float32, attn_block_dtype=torch.float32, mlp_dtype=torch.float32)
    )
    own_table = theirs.blocks[2].inner_mha_cls.rotary_emb.inv_freq.clone()
    theirs.load_state_dict(
        {name: value.float() for name, value in weights.items()}
        | {"blocks.2.inner_mha_cls.rotary_emb.inv_freq": own_table, "unembed.weight": weights["embedding_layer.weight"]}
    )
    if dtype == "bfloat16":
        theirs.to_bfloat16_except_poles_residues()
    letters = dna(120)
    ids = torch.tensor([list(letters.encode())])
    acts = opened(folder, dtype).forward(examples(letters), range(BLOCKS + 1)).layers
    with torch.inference_mode():
        u = theirs.embedding_layer.embed(ids)
        for layer in range(BLOCKS + 1):
            np.testing.assert_allclose(acts[layer], u[0].float(), atol=tolerance * float(u.abs().max()))
            u = theirs.blocks[layer](u)[0] if layer < BLOCKS else theirs.norm(u)
        logits = theirs(ids)[0][0].float()
        last = theirs.norm(torch.from_numpy(acts[BLOCKS])) @ weights["embedding_layer.weight"].float().T
    np.testing.assert_allclose(last, logits, atol=tolerance * float(logits.abs().max()))
