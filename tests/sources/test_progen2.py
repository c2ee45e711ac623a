"""ProGen2 against the published block written out in float64: attention and MLP side by side, a core at a time."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from saelib.config.files import LocalFiles
from saelib.config.sites import LayerSite
from saelib.config.sources import Progen2Source
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources import open_source

torch.set_num_threads(2)

LAYERS, WIDTH, HEADS, ROTARY, INNER, POSITIONS = 4, 128, 16, 4, 96, 48
SPECIAL = ["<|pad|>", "<|bos|>", "<|eos|>"]
VOCABULARY = {token: i for i, token in enumerate([*SPECIAL, "1", "2", *"ABCDEFGHIKLMNOPQRSTUVWXYZ"])}
SEQUENCES = ["MKVLAAGW", "ACDEFGHIKLMNPQRSTVWYXBZUO", "GGG"]


@pytest.fixture(scope="module")
def weights():
    """Every tensor of the published files, none of them at a value that would hide its absence."""
    generator = torch.Generator().manual_seed(0)

    def tensor(*shape: int, scale: float = 0.1) -> torch.Tensor:
        return scale * torch.randn(shape, generator=generator)

    found = {"transformer.wte.weight": tensor(32, WIDTH, scale=1.0)}
    for block in range(LAYERS):
        found |= {
            f"transformer.h.{block}.{key}": value
            for key, value in {
                "ln_1.weight": 1 + tensor(WIDTH, scale=0.3),
                "ln_1.bias": tensor(WIDTH, scale=0.3),
                "attn.bias": torch.ones(1, 1, POSITIONS, POSITIONS, dtype=torch.bool).tril(),
                "attn.masked_bias": torch.tensor(-1e9),
                "attn.qkv_proj.weight": tensor(3 * WIDTH, WIDTH),
                "attn.out_proj.weight": tensor(WIDTH, WIDTH),
                "mlp.fc_in.weight": tensor(INNER, WIDTH),
                "mlp.fc_in.bias": tensor(INNER),
                "mlp.fc_out.weight": tensor(WIDTH, INNER),
                "mlp.fc_out.bias": tensor(WIDTH),
            }.items()
        }
    return found | {
        "transformer.ln_f.weight": 1 + tensor(WIDTH, scale=0.3),
        "transformer.ln_f.bias": tensor(WIDTH, scale=0.3),
        "lm_head.weight": tensor(32, WIDTH),
        "lm_head.bias": tensor(32),
    }


def save_config(folder: Path, published: bool = True) -> None:
    shared = {"n_positions": POSITIONS, "n_layer": LAYERS, "n_head": HEADS, "rotary_dim": ROTARY, "n_inner": INNER}
    if published:
        named = {"n_embd": WIDTH, "n_ctx": POSITIONS, "vocab_size": 32, "model_type": "progen"}
    else:
        named = {"embed_dim": WIDTH, "vocab_size_emb": 32, "vocab_size_lm_head": 32, "model_type": "progen"}
    (folder / "config.json").write_text(json.dumps(shared | named | {"architectures": ["ProGenForCausalLM"]}))


def save_tokenizer(folder: Path, vocabulary: dict[str, int] = VOCABULARY) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(vocabulary, merges=[]))
    tokenizer.add_special_tokens([token for token in SPECIAL if token in vocabulary])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    return tokenizer


@pytest.fixture
def folder(weights, tmp_path):
    """As published: `pytorch_model.bin`, masks included."""
    save_config(tmp_path)
    save_tokenizer(tmp_path)
    torch.save(weights, tmp_path / "pytorch_model.bin")
    return tmp_path


def opened(folder: Path, dtype: str = "float32", device: str = "cpu", **options):
    options = {"max_length": POSITIONS, **options}
    return open_source(Progen2Source(family="progen2", weights=LocalFiles(path=folder), **options), device, dtype)


def examples(*sequences: str) -> list[Example]:
    return [Example(str(i), str(i), sequence) for i, sequence in enumerate(sequences)]


class Reference:
    """The stream [tokens, width] before the first block and behind each, in float64."""

    def __init__(self, weights):
        self.weights = {key.removeprefix("transformer."): value.double().numpy() for key, value in weights.items()}

    def stream(self, ids: list[int]) -> list[np.ndarray]:
        x = self.weights["wte.weight"][ids]
        found = [x]
        for block in range(LAYERS):
            normed = self.norm(x, f"h.{block}.ln_1")
            x = x + self.attention(normed, f"h.{block}.attn") + self.mlp(normed, f"h.{block}.mlp")
            found.append(x)
        return found

    def norm(self, x, name):
        x = x - x.mean(axis=1, keepdims=True)
        x = x / np.sqrt((x**2).mean(axis=1, keepdims=True) + 1e-5)
        return x * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]

    def mlp(self, x, name):
        x = x @ self.weights[f"{name}.fc_in.weight"].T + self.weights[f"{name}.fc_in.bias"]
        x = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
        return x @ self.weights[f"{name}.fc_out.weight"].T + self.weights[f"{name}.fc_out.bias"]

    def attention(self, x, name):
        """Eight cores, each with its own run of the projection: its queries, then values, then keys."""
        projected = x @ self.weights[f"{name}.qkv_proj.weight"].T
        width = WIDTH // HEADS
        heads = []
        for core in np.split(projected, 8, axis=1):
            queries, values, keys = np.split(core, 3, axis=1)
            for head in range(HEADS // 8):
                channels = slice(head * width, (head + 1) * width)
                heads.append(self.head(queries[:, channels], keys[:, channels], values[:, channels]))
        return np.concatenate(heads, axis=1) @ self.weights[f"{name}.out_proj.weight"].T

    def head(self, queries, keys, values):
        queries, keys = self.rotated(queries), self.rotated(keys)
        out = np.zeros_like(values)
        for position in range(len(values)):
            scores = keys[: position + 1] @ queries[position] / np.sqrt(values.shape[1])
            shares = np.exp(scores - scores.max())
            out[position] = shares / shares.sum() @ values[: position + 1]
        return out

    def rotated(self, x):
        """Neighboring channels are the parts of one complex number, turned by an angle for each position."""
        numbers = x[:, 0:ROTARY:2] + 1j * x[:, 1:ROTARY:2]
        speeds = 10000.0 ** (-np.arange(0, ROTARY, 2) / ROTARY)
        numbers = numbers * np.exp(1j * np.arange(len(x))[:, None] * speeds)
        turned = np.stack([numbers.real, numbers.imag], axis=2).reshape(len(x), ROTARY)
        return np.concatenate([turned, x[:, ROTARY:]], axis=1)


def test_every_layer_is_the_published_models(folder, weights, device):
    source = opened(folder, device=device)
    assert (source.n_layers, source.d_in(LAYERS)) == (LAYERS, WIDTH)
    acts = source.forward(examples(*SEQUENCES), range(LAYERS + 1))
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    assert acts.tokens_per_example == [8, 25, 3]
    start = 0
    for sequence in SEQUENCES:
        stream = Reference(weights).stream(tokenizer.encode(f"1{sequence}2").ids)
        rows = slice(start, start + len(sequence))
        for layer in range(LAYERS + 1):
            np.testing.assert_allclose(acts.layers[layer][rows], stream[layer][1:-1], atol=2e-5)
        start = rows.stop


@pytest.mark.parametrize("layer", [1, LAYERS])
def test_attention_and_mlp_read_the_same_stream(folder, weights, layer):
    sites = [LayerSite(layer, "attention_out"), LayerSite(layer, "mlp_out")]
    attention, mlp = opened(folder).forward(examples(SEQUENCES[0]), sites).layers.values()
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(f"1{SEQUENCES[0]}2").ids
    reference, block = Reference(weights), f"h.{layer - 1}"
    normed = reference.norm(reference.stream(ids)[layer - 1], f"{block}.ln_1")
    np.testing.assert_allclose(attention, reference.attention(normed, f"{block}.attn")[1:-1], atol=2e-5)
    np.testing.assert_allclose(mlp, reference.mlp(normed, f"{block}.mlp")[1:-1], atol=2e-5)


def test_the_model_norms_the_last_layer_once_more(folder, weights):
    """What the model hands on is the last layer normed: nothing lies between them."""
    source = opened(folder, keep_special_tokens=True)
    ids = torch.tensor([[VOCABULARY[letter] for letter in "1MKV2"]])
    with torch.no_grad():
        handed_on = source._model(ids).last_hidden_state[0]
    last = source.forward(examples("MKV"), [LAYERS]).layers[LAYERS]
    np.testing.assert_allclose(Reference(weights).norm(last, "ln_f"), handed_on, atol=2e-5)
    assert np.abs(last - handed_on.numpy()).max() > 0.1


def test_ports_to_the_hub_have_other_names_and_the_same_layers(folder, weights, tmp_path):
    expected = opened(folder).forward(examples(*SEQUENCES), [LAYERS]).layers[LAYERS]
    save_config(folder, published=False)
    (folder / "pytorch_model.bin").unlink()
    kept = {key: value for key, value in weights.items() if not key.endswith(("attn.bias", "masked_bias"))}
    save_file(kept, folder / "model.safetensors")
    np.testing.assert_array_equal(opened(folder).forward(examples(*SEQUENCES), [LAYERS]).layers[LAYERS], expected)
    names = sorted(kept)
    shards = {f"model-{i}.safetensors": names[i::2] for i in range(2)}
    for shard, keys in shards.items():
        save_file({key: kept[key] for key in keys}, folder / shard)
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {key: shard for shard, keys in shards.items() for key in keys}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    np.testing.assert_array_equal(opened(folder).forward(examples(*SEQUENCES), [LAYERS]).layers[LAYERS], expected)


def test_sequences_are_read_backwards_on_request(folder, weights):
    acts = opened(folder, reverse=True, keep_special_tokens=True).forward(examples("MKVLA"), [3])
    expected = Reference(weights).stream([VOCABULARY[letter] for letter in "2ALVKM1"])[3]
    np.testing.assert_allclose(acts.layers[3], expected, atol=2e-5)


def test_no_letter_is_dropped(folder):
    """The tokenizer alone would leave out J and small letters, and so move all that follow."""
    source = opened(folder)
    expected = source.forward(examples("MXKVX"), [3])
    acts = source.forward(examples("mJkv*"), [3])
    assert acts.tokens_per_example == [5]
    np.testing.assert_array_equal(acts.layers[3], expected.layers[3])


@pytest.mark.parametrize("options", [{}, {"batch_tokens": 12}])
def test_company_and_padding_change_nothing(folder, options):
    source = opened(folder, **options)
    calls = []
    source._model.h[0].register_forward_hook(lambda *_: calls.append(1))
    together = source.forward(examples(*SEQUENCES), range(LAYERS + 1))
    assert len(calls) == (3 if options else 1)
    alone = [source.forward(examples(sequence), range(LAYERS + 1)) for sequence in SEQUENCES]
    for layer in range(LAYERS + 1):
        np.testing.assert_allclose(
            together.layers[layer], np.concatenate([one.layers[layer] for one in alone]), atol=2e-5
        )


@pytest.mark.parametrize(("long", "counts"), [("cut", [6, 3]), ("split", [20, 3]), ("skip", [0, 3])])
def test_long_proteins_are_cut_split_or_left_out(folder, long, counts):
    acts = opened(folder, max_length=8, long=long).forward(examples("ACDEFGHIKLMNPQRSTVWY", "GGG"), [1])
    assert acts.tokens_per_example == counts


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_stays_near(folder, dtype):
    protein = "ACDEFGHIKLMNPQRSTVWY" * 2
    wide = opened(folder).forward(examples(protein), [LAYERS]).layers[LAYERS]
    narrow = opened(folder, dtype).forward(examples(protein), [LAYERS]).layers[LAYERS]
    assert narrow.dtype == np.float32
    assert 0 < np.abs(narrow - wide).max() < 0.05 * np.abs(wide).max()


def test_layers_outside_and_lengths_beyond_its_positions_are_refused(folder):
    with pytest.raises(UserError, match="ProGen2: has no layer 5; its layers are 0 to 4"):
        opened(folder).forward(examples("MKV"), [5])
    with pytest.raises(UserError, match="max_length is 49, but the model reads at most 48 tokens"):
        opened(folder, max_length=POSITIONS + 1)


def test_folders_that_are_no_such_checkpoint_are_refused(folder, weights):
    binary = folder / "pytorch_model.bin"
    torch.save({key: value for key, value in weights.items() if "h.1.mlp.fc_in.weight" not in key}, binary)
    with pytest.raises(UserError, match=r"do not fit its config: Missing key.*h\.1\.mlp\.fc_in\.weight"):
        opened(folder)
    torch.save(weights | {"transformer.h.0.attn.qkv_proj.weight": torch.zeros(WIDTH, WIDTH)}, binary)
    with pytest.raises(UserError, match=r"qkv_proj\.weight has the shape"):
        opened(folder)
    binary.write_bytes(b"garbage")
    with pytest.raises(UserError, match="not a checkpoint"):
        opened(folder)
    binary.unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor pytorch_model\.bin"):
        opened(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match=r"index\.json: does not belong to such a model: weight_map: Field required"):
        opened(folder)
    (folder / "config.json").write_text('{"n_layer": 3}')
    with pytest.raises(UserError, match="does not belong to such a model: vocab_size: Field required"):
        opened(folder)
    save_tokenizer(folder, {letter: i for i, letter in enumerate("ACDE")})
    with pytest.raises(UserError, match="not ProGen2's tokenizer"):
        opened(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer"):
        opened(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match=r"no tokenizer\.json"):
        opened(folder)


def test_pickled_objects_are_not_built(folder):
    marker = folder / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    torch.save({"transformer.wte.weight": Evil()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="pickled objects"):
        opened(folder)
    assert not marker.exists()
