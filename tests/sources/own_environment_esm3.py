"""ESM3 against the package's own account of itself; run by test_esm3.py in the environment that holds the package."""

from pathlib import Path
from types import SimpleNamespace

import esm.pretrained
import numpy as np
import pytest
import torch
from esm.models.esm3 import ESM3
from esm.tokenization import EsmSequenceTokenizer

from saelib.config.files import LocalFiles
from saelib.config.sites import LayerSite
from saelib.config.sources import Esm3Source
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources import open_source
from saelib.sources.esm3 import sizes

torch.set_num_threads(2)

LAYERS, WIDTH = 4, 128
SIZES = {"d_model": WIDTH, "n_heads": 2, "v_heads": 8, "n_layers": LAYERS}
PARTS = {"structure_encoder_fn": None, "structure_decoder_fn": None, "function_decoder_fn": None}
TOKENIZERS = SimpleNamespace(sequence=EsmSequenceTokenizer())
SEQUENCES = ["MKVLAAGW", "ACDEFGHIKLMNPQRSTVWYXBZUO", "GGG"]


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = ESM3(**SIZES, **PARTS, tokenizers=TOKENIZERS)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module")
def repository(model, tmp_path_factory):
    """The part of the hub's repository that counts, as its cache keeps it: a snapshot of links to blobs."""
    root = tmp_path_factory.mktemp("models--EvolutionaryScale--esm3-sm-open-v1")
    folder = root / "snapshots" / "0" / "data" / "weights"
    folder.mkdir(parents=True)
    (root / "blobs").mkdir()
    torch.save(model.state_dict(), root / "blobs" / "1234")
    (folder / "esm3_sm_open_v1.pth").symlink_to(root / "blobs" / "1234")
    (folder / "esm3_structure_encoder_v0.pth").write_bytes(b"another network")
    return root


def opened(path: Path, dtype: str = "float32", **options):
    return open_source(Esm3Source(family="esm3", weights=LocalFiles(path=path), **options), "cpu", dtype)


def examples(*sequences: str) -> list[Example]:
    return [Example(str(i), str(i), sequence) for i, sequence in enumerate(sequences)]


def hidden_states(model, sequence: str):
    """Returns the stream of one protein alone, by the package's own stack: its input, `hiddens`, and the normed end."""
    caught = {}
    hook = model.transformer.register_forward_hook(lambda _, args, out: caught.update(first=args[0], out=out))
    with torch.no_grad():
        model(sequence_tokens=torch.tensor([TOKENIZERS.sequence.encode(sequence)]))
    hook.remove()
    normed, last, hiddens = caught["out"]
    torch.testing.assert_close(last, hiddens[-1])
    return [states[0, 1:-1] for states in (caught["first"], *hiddens)], normed[0, 1:-1]


def test_layers_are_the_packages_hidden_states(model, repository):
    source = opened(repository)
    assert (source.n_layers, source.d_in(LAYERS)) == (LAYERS, WIDTH)
    acts = source.forward(examples(*SEQUENCES), range(LAYERS + 1))
    assert acts.tokens_per_example == [8, 25, 3]
    start = 0
    for sequence in SEQUENCES:
        states, normed = hidden_states(model, sequence)
        rows = slice(start, start + len(sequence))
        for layer in range(LAYERS + 1):
            np.testing.assert_allclose(acts.layers[layer][rows], states[layer], atol=1e-4)
        last = torch.from_numpy(acts.layers[LAYERS][rows])
        with torch.no_grad():
            torch.testing.assert_close(model.transformer.norm(last), normed, atol=1e-4, rtol=0)
        assert (last - normed).abs().max() > 0.1
        start = rows.stop


@pytest.mark.parametrize("layer", [1, LAYERS])
def test_attention_and_mlp_are_scaled_as_the_package_scales_them(model, repository, layer):
    sites = [LayerSite(layer, "attention_out"), LayerSite(layer, "mlp_out")]
    acts = opened(repository).forward(examples(*SEQUENCES), [layer - 1, layer, *sites])
    before, after, attention, mlp = acts.layers.values()
    np.testing.assert_allclose(before + attention + mlp, after, atol=1e-4)
    block = model.transformer.blocks[layer - 1]
    with torch.no_grad():
        expected = block.ffn(torch.from_numpy(before + attention)) / block.scaling_factor
    np.testing.assert_allclose(mlp, expected, atol=1e-4)


def test_sizes_are_what_the_package_builds_its_checkpoint_with(monkeypatch):
    class Stop(Exception):
        pass

    def record(**arguments):
        raise Stop(arguments)

    monkeypatch.setattr(esm.pretrained, "ESM3", record)
    monkeypatch.setattr(esm.pretrained, "get_esm3_model_tokenizers", lambda name: TOKENIZERS)
    with pytest.raises(Stop) as stopped:
        esm.pretrained.ESM3_sm_open_v0()
    published = {key: value for key, value in stopped.value.args[0].items() if isinstance(value, int)}
    with torch.device("meta"):
        real = ESM3(**published, **PARTS, tokenizers=TOKENIZERS)
    assert sizes(real.state_dict()) == published == {"d_model": 1536, "n_heads": 24, "v_heads": 256, "n_layers": 48}


@pytest.mark.parametrize("options", [{}, {"batch_tokens": 12}])
def test_company_and_padding_change_nothing(repository, options):
    source = opened(repository, **options)
    calls = []
    source._model.transformer.register_forward_hook(lambda *_: calls.append(1))
    together = source.forward(examples(*SEQUENCES), range(LAYERS + 1))
    assert len(calls) == (3 if options else 1)
    alone = [source.forward(examples(sequence), range(LAYERS + 1)) for sequence in SEQUENCES]
    for layer in range(LAYERS + 1):
        np.testing.assert_allclose(
            together.layers[layer], np.concatenate([one.layers[layer] for one in alone]), atol=1e-4
        )


def test_small_letters_are_read_as_large_ones_and_unknown_ones_as_x(repository):
    source = opened(repository)
    expected = source.forward(examples("MKVXX"), [3])
    acts = source.forward(examples("mkvJ*"), [3])
    assert acts.tokens_per_example == [5]
    np.testing.assert_array_equal(acts.layers[3], expected.layers[3])


@pytest.mark.parametrize(("long", "counts"), [("cut", [6, 3]), ("split", [20, 3]), ("skip", [0, 3])])
def test_long_proteins_are_cut_split_or_left_out(repository, long, counts):
    source = opened(repository, max_length=8, long=long)
    assert source.forward(examples("ACDEFGHIKLMNPQRSTVWY", "GGG"), [1]).tokens_per_example == counts


def test_narrow_weights_differ_by_rounding_alone(repository):
    wide, narrow = opened(repository), opened(repository, "bfloat16")
    for block in narrow._model.transformer.blocks:
        assert block.attn.out_proj.weight.dtype == torch.bfloat16
        speeds = 10000.0 ** (-np.arange(0, 64, 2) / 64)
        np.testing.assert_allclose(block.attn.rotary.inv_freq, speeds, rtol=1e-6)  # bfloat16 would be 1e-3 away
    exact, rounded = (source.forward(examples(*SEQUENCES), [LAYERS]).layers[LAYERS] for source in (wide, narrow))
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).mean() < 0.05 * np.abs(exact).mean()


def test_layers_outside_and_lengths_beyond_training_are_refused(repository):
    with pytest.raises(UserError, match="ESM3: has no layer 5; its layers are 0 to 4"):
        opened(repository).forward(examples("MKV"), [5])
    with pytest.raises(UserError, match="max_length is 3000, but it was trained on 2048 tokens"):
        opened(repository, max_length=3000)


def test_files_that_are_no_such_checkpoint_are_refused(model, repository, tmp_path):
    with pytest.raises(UserError, match=r"should hold one file 'esm3_sm_open_v1\.pth', but holds 0"):
        opened(tmp_path)
    broken = tmp_path / "weights.pth"
    broken.write_bytes((repository / "blobs" / "1234").read_bytes()[:-5000])
    with pytest.raises(UserError, match="not a complete checkpoint"):
        opened(broken)
    torch.save(torch.zeros(3), broken)
    with pytest.raises(UserError, match="holds a Tensor, should hold weights by name"):
        opened(broken)
    torch.save({"transformer.norm.weight": torch.zeros(3)}, broken)
    with pytest.raises(UserError, match="not the weights of an ESM3"):
        opened(broken)
    weights = model.state_dict()
    del weights["transformer.blocks.2.ffn.1.weight"]
    torch.save(weights, broken)
    with pytest.raises(UserError, match=r"Missing key.*transformer\.blocks\.2\.ffn\.1\.weight"):
        opened(broken)


def test_pickled_objects_are_not_built(tmp_path):
    marker = tmp_path / "ran"

    class Evil:
        def __reduce__(self):
            return (Path.touch, (marker,))

    torch.save({"transformer.norm.weight": Evil()}, tmp_path / "esm3_sm_open_v1.pth")
    with pytest.raises(UserError, match="pickled objects"):
        opened(tmp_path)
    assert not marker.exists()
