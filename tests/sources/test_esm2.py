"""ESM2 in fair-esm's format, against fair-esm's own layers and against the same weights in transformers' port."""

from argparse import Namespace
from pathlib import Path

import esm
import numpy as np
import pytest
import torch
from torch.nn.functional import gelu
from transformers import EsmConfig, EsmModel

from saelib.config.files import LocalFiles
from saelib.config.sites import LayerSite
from saelib.config.sources import Esm2Source, TransformersSource
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources import open_source

torch.set_num_threads(2)

LAYERS, WIDTH, HEADS = 4, 32, 4
ALPHABET = esm.data.Alphabet.from_architecture("ESM-1b")
SEQUENCES = ["MKVLAAGW", "ACDEFGHIKLMNPQRSTVWYXBZUO", "GGG"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = esm.ESM2(LAYERS, WIDTH, HEADS, ALPHABET)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def save(model: esm.ESM2, path: Path) -> Path:
    """As the published files are: names of fairseq's, settings in a Namespace, no contact regression."""
    weights = {}
    for key, value in model.state_dict().items():
        prefix = "encoder." if key.startswith("lm_head.") else "encoder.sentence_encoder."
        if not key.startswith("contact_head."):
            weights[prefix + key] = value
    settings = Namespace(
        encoder_layers=LAYERS, encoder_embed_dim=WIDTH, encoder_attention_heads=HEADS, token_dropout=True
    )
    torch.save({"cfg": {"model": settings}, "model": weights}, path)
    return path


@pytest.fixture(scope="module")
def checkpoint(model, tmp_path_factory):
    return save(model, tmp_path_factory.mktemp("esm2") / "esm2_t4_tiny_UR50D.pt")


def opened(path: Path, dtype: str = "float32", device: str = "cpu", **options):
    return open_source(Esm2Source(family="esm2", weights=LocalFiles(path=path), **options), device, dtype)


def examples(*sequences: str) -> list[Example]:
    return [Example(str(i), str(i), sequence) for i, sequence in enumerate(sequences)]


def representations(model, sequence: str) -> dict[int, torch.Tensor]:
    """fair-esm's own, special tokens included; the last one is normed."""
    _, _, ids = ALPHABET.get_batch_converter()([("", sequence)])
    with torch.no_grad():
        return {k: v[0] for k, v in model(ids, repr_layers=range(LAYERS + 1))["representations"].items()}


def test_layers_are_fair_esms_and_the_last_one_is_not_normed(model, checkpoint, device):
    source = opened(checkpoint, device=device)
    assert (source.n_layers, source.d_in(LAYERS)) == (LAYERS, WIDTH)
    acts = source.forward(examples(*SEQUENCES), range(LAYERS + 1))
    assert acts.tokens_per_example == [8, 25, 3]
    start = 0
    for sequence in SEQUENCES:
        expected = representations(model, sequence)
        rows = slice(start, start + len(sequence))
        for layer in range(LAYERS):
            np.testing.assert_allclose(acts.layers[layer][rows], expected[layer][1:-1], atol=2e-5)
        last = torch.from_numpy(acts.layers[LAYERS][rows])
        with torch.no_grad():
            normed = model.emb_layer_norm_after(last)
        np.testing.assert_allclose(normed, expected[LAYERS][1:-1], atol=2e-5)
        assert (last - expected[LAYERS][1:-1]).abs().max() > 0.1
        start = rows.stop


@pytest.mark.parametrize("layer", [1, LAYERS])
def test_attention_and_mlp_are_what_fair_esms_layer_adds(model, checkpoint, layer):
    sites = [LayerSite(layer, "attention_out"), LayerSite(layer, "mlp_out")]
    acts = opened(checkpoint).forward(examples(*SEQUENCES), [layer - 1, layer, *sites])
    before, after, attention, mlp = acts.layers.values()
    np.testing.assert_allclose(before + attention + mlp, after, atol=2e-5)
    block, middle = model.layers[layer - 1], torch.from_numpy(before + attention)
    with torch.no_grad():
        np.testing.assert_allclose(mlp, block.fc2(gelu(block.fc1(block.final_layer_norm(middle)))), atol=2e-5)


def test_every_layer_comes_from_one_pass(checkpoint):
    source = opened(checkpoint)
    calls = []
    source._model.layers[0].register_forward_hook(lambda *_: calls.append(1))
    source.forward(examples(*SEQUENCES), range(LAYERS + 1))
    assert len(calls) == 1


PORTED = {
    "embed_tokens": "embeddings.word_embeddings",
    "emb_layer_norm_after": "encoder.emb_layer_norm_after",
    "layers.{}.self_attn.q_proj": "encoder.layer.{}.attention.self.query",
    "layers.{}.self_attn.k_proj": "encoder.layer.{}.attention.self.key",
    "layers.{}.self_attn.v_proj": "encoder.layer.{}.attention.self.value",
    "layers.{}.self_attn.out_proj": "encoder.layer.{}.attention.output.dense",
    "layers.{}.self_attn_layer_norm": "encoder.layer.{}.attention.LayerNorm",
    "layers.{}.fc1": "encoder.layer.{}.intermediate.dense",
    "layers.{}.fc2": "encoder.layer.{}.output.dense",
    "layers.{}.final_layer_norm": "encoder.layer.{}.LayerNorm",
}


def ported(model: esm.ESM2, folder: Path) -> Path:
    """The same weights as transformers keeps them."""
    config = EsmConfig(
        vocab_size=33, pad_token_id=1, mask_token_id=32, hidden_size=WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, intermediate_size=4 * WIDTH, max_position_embeddings=1026, layer_norm_eps=1e-5,
        position_embedding_type="rotary", token_dropout=True, emb_layer_norm_before=False,
    )  # fmt: skip
    weights = model.state_dict()
    port = EsmModel(config, add_pooling_layer=False)
    for old, new in PORTED.items():
        for layer in range(LAYERS):
            target = port.get_submodule(new.format(layer))
            values = {name: weights[f"{old.format(layer)}.{name}"] for name in target.state_dict()}
            target.load_state_dict(values)
    port.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(ALPHABET.all_toks))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "EsmTokenizer", "model_max_length": 1024}')
    return folder


def test_the_port_in_transformers_has_the_same_layers(model, checkpoint, tmp_path):
    config = TransformersSource(family="transformers", weights=LocalFiles(path=ported(model, tmp_path)))
    theirs = open_source(config).forward(examples(*SEQUENCES), range(LAYERS + 1))
    ours = opened(checkpoint).forward(examples(*SEQUENCES), range(LAYERS + 1))
    assert ours.tokens_per_example == theirs.tokens_per_example
    for layer in range(LAYERS + 1):
        np.testing.assert_allclose(ours.layers[layer], theirs.layers[layer], atol=1e-4)


@pytest.mark.parametrize("options", [{}, {"batch_tokens": 12}])
def test_company_and_padding_change_nothing(checkpoint, options):
    together = opened(checkpoint, **options).forward(examples(*SEQUENCES), [0, 2, LAYERS])
    alone = [opened(checkpoint).forward(examples(sequence), [0, 2, LAYERS]) for sequence in SEQUENCES]
    for layer in (0, 2, LAYERS):
        np.testing.assert_allclose(
            together.layers[layer], np.concatenate([one.layers[layer] for one in alone]), atol=2e-5
        )


def test_small_letters_are_read_as_large_ones_and_unknown_ones_as_x(checkpoint):
    source = opened(checkpoint)
    expected = source.forward(examples("MKVXX"), [3])
    acts = source.forward(examples("mkvJ*"), [3])
    assert acts.tokens_per_example == [5]
    np.testing.assert_array_equal(acts.layers[3], expected.layers[3])


def test_special_tokens_on_request_are_cls_and_eos(model, checkpoint):
    acts = opened(checkpoint, keep_special_tokens=True).forward(examples(SEQUENCES[0]), [2])
    np.testing.assert_allclose(acts.layers[2], representations(model, SEQUENCES[0])[2], atol=2e-5)


@pytest.mark.parametrize(("long", "counts"), [("cut", [6, 3]), ("split", [20, 3]), ("skip", [0, 3])])
def test_long_proteins_are_cut_split_or_left_out(checkpoint, long, counts):
    source = opened(checkpoint, max_length=8, long=long)
    acts = source.forward(examples("ACDEFGHIKLMNPQRSTVWY", "GGG"), [1])
    assert acts.tokens_per_example == counts
    if long == "split":
        part = opened(checkpoint).forward(examples("HIKLMN"), [1])
        np.testing.assert_allclose(acts.layers[1][6:12], part.layers[1], atol=2e-5)


def test_narrow_weights_keep_far_positions_apart(checkpoint):
    """Angles are not rounded: a protein of 1000 residues differs by rounding alone."""
    protein = "".join(np.random.default_rng(0).choice(list("ACDEFGHIKLMNPQRSTVWY"), size=1000))
    wide = opened(checkpoint).forward(examples(protein), [LAYERS]).layers[LAYERS]
    narrow = opened(checkpoint, "bfloat16").forward(examples(protein), [LAYERS]).layers[LAYERS]
    assert narrow.dtype == np.float32
    error = np.abs(narrow - wide).mean(axis=1)
    assert 0 < error[:100].mean() < 0.05 * np.abs(wide).mean()
    assert error[-100:].mean() < 1.5 * error[:100].mean()


def test_layers_outside_and_lengths_beyond_training_are_refused(checkpoint):
    with pytest.raises(UserError, match="ESM2: has no layer 5; its layers are 0 to 4"):
        opened(checkpoint).forward(examples("MKV"), [5])
    with pytest.raises(UserError, match="max_length is 2000, but it was trained on 1026 tokens"):
        opened(checkpoint, max_length=2000)


def test_files_that_are_no_such_checkpoint_are_refused(model, checkpoint, tmp_path):
    broken = tmp_path / "esm2.pt"
    with pytest.raises(UserError, match="no such file"):
        opened(broken)
    with pytest.raises(UserError, match=r"is a folder; family esm2 reads one \.pt file"):
        opened(tmp_path)
    broken.write_bytes(checkpoint.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"ESM2: .*esm2\.pt: not a complete checkpoint"):
        opened(broken)
    broken.write_bytes(b"garbage")
    with pytest.raises(UserError, match="not a checkpoint"):
        opened(broken)
    torch.save(model.state_dict(), broken)
    with pytest.raises(UserError, match="not a checkpoint of fair-esm's ESM2"):
        opened(broken)
    data = torch.load(checkpoint, weights_only=False)
    del data["model"]["encoder.sentence_encoder.layers.1.fc1.weight"]
    torch.save(data, broken)
    with pytest.raises(UserError, match=r"Missing key.*layers\.1\.fc1\.weight"):
        opened(broken)


def test_pickled_objects_are_not_built(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    torch.save({"cfg": {"model": Evil()}, "model": {}}, tmp_path / "esm2.pt")
    with pytest.raises(UserError, match="pickled objects"):
        opened(tmp_path / "esm2.pt")
    assert not marker.exists()
