"""gLM2 against its description in float64: rotary positions as complex numbers, a head and a token at a time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from saelib.config.files import LocalFiles
from saelib.config.sites import LayerSite
from saelib.config.sources import Glm2Source
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources import open_source

torch.set_num_threads(2)

LAYERS, WIDTH, HEADS, INNER, EPS = 4, 48, 3, 64, 1e-5
# The order of the published tokenizer.
TOKENS = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZOatcg", "<+>", "<->", "<mask>", "<sep>"]
SEQUENCES = ["MKVLAAGW", "ACDEFGHIKLMNPQRSTVWYXBZUO", "GGG"]


@pytest.fixture(scope="module")
def weights():
    """Names and shapes of the published files, head included; no norm is left at ones."""
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int, scale: float = 0.15) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator)

    found = {"glm2.tok_embeddings.weight": tensor(len(TOKENS), WIDTH, scale=1.0)}
    for layer in range(LAYERS):
        found |= {
            f"glm2.encoder.layers.{layer}.{key}": value
            for key, value in {
                "attention.wqkv.weight": tensor(3 * WIDTH, WIDTH),
                "attention.wo.weight": tensor(WIDTH, WIDTH),
                "feed_forward.w1.weight": tensor(INNER, WIDTH),
                "feed_forward.w2.weight": tensor(WIDTH, INNER),
                "feed_forward.w3.weight": tensor(INNER, WIDTH),
                "attention_norm.weight": 1 + tensor(WIDTH),
                "ffn_norm.weight": 1 + tensor(WIDTH),
            }.items()
        }
    return found | {
        "lm_head.norm.weight": 1 + tensor(WIDTH),
        "lm_head.proj_output.weight": tensor(len(TOKENS), WIDTH),
    }


@pytest.fixture
def folder(weights, tmp_path):
    settings = {
        "architectures": ["gLM2ForMaskedLM"], "auto_map": {"AutoModel": "modeling_glm2.gLM2Model"}, "depth": LAYERS,
        "dim": WIDTH, "ffn_dim_multiplier": None, "heads": HEADS, "model_type": "gLM2", "norm_eps": EPS,
        "swiglu_multiple_of": 64, "torch_dtype": "float32", "vocab_size": len(TOKENS),
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(settings))
    (tmp_path / "modeling_glm2.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    return tmp_path


def opened(folder: Path, dtype: str = "float32", device: str = "cpu", **options):
    return open_source(Glm2Source(family="glm2", weights=LocalFiles(path=folder), **options), device, dtype)


def examples(*sequences: str) -> list[Example]:
    return [Example(str(i), str(i), sequence) for i, sequence in enumerate(sequences)]


class Reference:
    """The stream [tokens, width] before the first block and behind each, in float64."""

    def __init__(self, weights):
        self.weights = {key.removeprefix("glm2."): value.double().numpy() for key, value in weights.items()}

    def stream(self, tokens: list[str]) -> list[np.ndarray]:
        x = self.weights["tok_embeddings.weight"][[TOKENS.index(token) for token in tokens]]
        found = [x]
        for layer in range(LAYERS):
            name = f"encoder.layers.{layer}"
            x = x + self.attention(self.norm(x, f"{name}.attention_norm"), f"{name}.attention")
            x = x + self.mlp(self.norm(x, f"{name}.ffn_norm"), f"{name}.feed_forward")
            found.append(x)
        return found

    def norm(self, x, name):
        return x / np.sqrt((x**2).mean(axis=1, keepdims=True) + EPS) * self.weights[f"{name}.weight"]

    def mlp(self, x, name):
        gate, linear = (x @ self.weights[f"{name}.{key}.weight"].T for key in ("w1", "w3"))
        return (gate / (1 + np.exp(-gate)) * linear) @ self.weights[f"{name}.w2.weight"].T

    def attention(self, x, name):
        queries, keys, values = np.split(x @ self.weights[f"{name}.wqkv.weight"].T, 3, axis=1)
        heads = [
            self.head(self.turned(q), self.turned(k), v)
            for q, k, v in zip(*(np.split(part, HEADS, axis=1) for part in (queries, keys, values)), strict=True)
        ]
        return np.concatenate(heads, axis=1) @ self.weights[f"{name}.wo.weight"].T

    def head(self, queries, keys, values):
        out = np.zeros_like(values)
        for position, query in enumerate(queries):
            # The real part of q times conj(k), summed: the inner product of the turned vectors.
            scores = (query * keys.conj()).real.sum(axis=1) / np.sqrt(values.shape[1])
            shares = np.exp(scores - scores.max())
            out[position] = shares / shares.sum() @ values
        return out

    def turned(self, x):
        """Channel j and channel j + half are the parts of one complex number."""
        half = x.shape[1] // 2
        speeds = 10000.0 ** (-np.arange(half) / half)
        return (x[:, :half] + 1j * x[:, half:]) * np.exp(1j * np.arange(len(x))[:, None] * speeds)


def test_every_layer_is_the_published_models(folder, weights, device):
    source = opened(folder, device=device)
    assert (source.n_layers, source.d_in(LAYERS)) == (LAYERS, WIDTH)
    acts = source.forward(examples(*SEQUENCES), range(LAYERS + 1))
    assert acts.tokens_per_example == [8, 25, 3]
    start = 0
    for sequence in SEQUENCES:
        stream = Reference(weights).stream(["<+>", *sequence])
        rows = slice(start, start + len(sequence))
        for layer in range(LAYERS + 1):
            np.testing.assert_allclose(acts.layers[layer][rows], stream[layer][1:], atol=1e-4)
        start = rows.stop
    assert not (folder / "ran").exists()  # the code beside the weights


@pytest.mark.parametrize("layer", [1, LAYERS])
def test_attention_and_mlp_are_the_published_models(folder, weights, layer):
    sites = [LayerSite(layer, "attention_out"), LayerSite(layer, "mlp_out")]
    before, attention, mlp = (
        opened(folder, keep_special_tokens=True).forward(examples(SEQUENCES[0]), [layer - 1, *sites]).layers.values()
    )
    reference, block = Reference(weights), f"encoder.layers.{layer - 1}"
    expected = reference.attention(reference.norm(before, f"{block}.attention_norm"), f"{block}.attention")
    np.testing.assert_allclose(attention, expected, atol=2e-5)
    expected = reference.mlp(reference.norm(before + attention, f"{block}.ffn_norm"), f"{block}.feed_forward")
    np.testing.assert_allclose(mlp, expected, atol=2e-5)


def test_nucleotides_are_small_letters_and_strands_are_tokens(folder, weights):
    acts = opened(folder, alphabet="dna", strand="-", keep_special_tokens=True).forward(examples("ACGTTN"), [2])
    expected = Reference(weights).stream(["<->", "a", "c", "g", "t", "t", "<unk>"])[2]
    np.testing.assert_allclose(acts.layers[2], expected, atol=1e-4)
    acts = opened(folder, keep_special_tokens=True).forward(examples("acgtJ"), [2])
    expected = Reference(weights).stream(["<+>", "A", "C", "G", "T", "<unk>"])[2]
    np.testing.assert_allclose(acts.layers[2], expected, atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"batch_tokens": 12}])
def test_company_and_padding_change_nothing(folder, options):
    source = opened(folder, **options)
    calls = []
    source._model.blocks[0].register_forward_hook(lambda *_: calls.append(1))
    together = source.forward(examples(*SEQUENCES), range(LAYERS + 1))
    assert len(calls) == (3 if options else 1)
    alone = [source.forward(examples(sequence), range(LAYERS + 1)) for sequence in SEQUENCES]
    for layer in range(LAYERS + 1):
        np.testing.assert_allclose(
            together.layers[layer], np.concatenate([one.layers[layer] for one in alone]), atol=1e-4
        )


@pytest.mark.parametrize(("long", "counts"), [("cut", [7, 3]), ("split", [20, 3]), ("skip", [0, 3])])
def test_long_sequences_are_cut_split_or_left_out(folder, long, counts):
    source = opened(folder, max_length=8, long=long)
    acts = source.forward(examples("ACDEFGHIKLMNPQRSTVWY", "GGG"), [1])
    assert acts.tokens_per_example == counts
    if long == "split":  # every part begins with the strand
        part = opened(folder).forward(examples("IKLMNPQ"), [1])
        np.testing.assert_allclose(acts.layers[1][7:14], part.layers[1], atol=1e-4)


def test_narrow_weights_keep_far_positions_apart(folder):
    """Angles are not rounded: a protein of 1000 residues differs by rounding alone."""
    protein = "".join(np.random.default_rng(0).choice(list("ACDEFGHIKLMNPQRSTVWY"), size=1000))
    wide = opened(folder).forward(examples(protein), [LAYERS]).layers[LAYERS]
    narrow = opened(folder, "bfloat16").forward(examples(protein), [LAYERS]).layers[LAYERS]
    assert narrow.dtype == np.float32
    error = np.abs(narrow - wide).mean(axis=1)
    assert 0 < error[:100].mean() < 0.05 * np.abs(wide).mean()
    assert error[-100:].mean() < 1.5 * error[:100].mean()


def test_weights_without_a_head_or_with_other_files_give_the_same(folder, weights):
    expected = opened(folder).forward(examples("MKV"), [3]).layers[3]
    (folder / "model.safetensors").unlink()
    bare = {key.removeprefix("glm2."): value for key, value in weights.items() if key.startswith("glm2.")}
    torch.save(bare, folder / "pytorch_model.bin")
    np.testing.assert_array_equal(opened(folder).forward(examples("MKV"), [3]).layers[3], expected)


def test_layers_outside_and_lengths_beyond_training_are_refused(folder):
    with pytest.raises(UserError, match="gLM2: has no layer 5; its layers are 0 to 4"):
        opened(folder).forward(examples("MKV"), [5])
    with pytest.raises(UserError, match="max_length is 5000, but it was trained on 4096 tokens"):
        opened(folder, max_length=5000)


def test_folders_that_are_no_such_checkpoint_are_refused(folder, weights):
    file = folder / "model.safetensors"
    save_file({key: value for key, value in weights.items() if "layers.2.ffn_norm" not in key}, file)
    with pytest.raises(UserError, match=r"do not fit its config: Missing key.*layers\.2\.ffn_norm"):
        opened(folder)
    settings = json.loads((folder / "config.json").read_text())
    save_file(weights, file)
    (folder / "config.json").write_text(json.dumps(settings | {"depth": LAYERS - 1}))
    with pytest.raises(UserError, match="do not fit its config: Unexpected key"):
        opened(folder)
    (folder / "config.json").write_text(json.dumps(settings | {"heads": 5}))
    with pytest.raises(UserError, match="dim 48 is not made of 5 heads"):
        opened(folder)
    (folder / "config.json").write_text(json.dumps(settings | {"vocab_size": 33}))
    with pytest.raises(UserError, match="vocab_size: Input should be greater than or equal to 37"):
        opened(folder)
    (folder / "config.json").write_text('{"hidden_size": 32}')
    with pytest.raises(UserError, match="does not belong to such a model: dim: Field required"):
        opened(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(UserError, match="does not belong to such a model: the file"):
        opened(folder)
    (folder / "config.json").write_text(json.dumps(settings))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match="not a complete checkpoint"):
        opened(folder)
    file.unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        opened(folder)
