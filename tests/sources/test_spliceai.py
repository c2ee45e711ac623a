import json

import h5py
import numpy as np
import pytest

from saelib.config.files import Wheel
from saelib.datasets.base import Example
from saelib.errors import UserError
from saelib.fetch import fetch
from saelib.sources.spliceai import Spliceai, one_hot, read_keras

WIDTH = 6
KERNELS, DILATIONS = (3, 3, 5, 5), (1, 1, 2, 2)
CONTEXT = sum(2 * (kernel - 1) * dilation // 2 for kernel, dilation in zip(KERNELS, DILATIONS, strict=True))


class Reference:
    """The network of the paper's Figure 1 (two blocks between taps) in float64, written from its description."""

    def __init__(self, weights, dilations, blocks_per_tap):
        convs = sorted((name for name in weights if name.startswith("conv1d_")), key=_number)
        norms = sorted((name for name in weights if name.startswith("batch_normalization_")), key=_number)
        wide = [weights[name] for name in convs if len(weights[name]["kernel"]) > 1]
        narrow = [weights[name] for name in convs if len(weights[name]["kernel"]) == 1]
        self.first, *self.taps, self.head = narrow
        self.wide, self.norms = wide, [weights[name] for name in norms]
        self.dilations, self.blocks_per_tap = dilations, blocks_per_tap

    def run(self, codes):
        """codes [positions, 4] -> the stream before and after each block, and the class probabilities, uncropped."""
        stream = [self.conv(codes, self.first, 1)]
        skip = self.conv(stream[0], self.taps[0], 1)
        for block, dilation in enumerate(self.dilations):
            x = stream[-1]
            for half in (0, 1):
                x = np.maximum(self.norm(x, self.norms[2 * block + half]), 0)
                x = self.conv(x, self.wide[2 * block + half], dilation)
            stream.append(stream[-1] + x)
            if (block + 1) % self.blocks_per_tap == 0:
                skip = skip + self.conv(stream[-1], self.taps[(block + 1) // self.blocks_per_tap], 1)
        scores = np.exp(self.conv(skip, self.head, 1))
        return stream, scores / scores.sum(axis=1, keepdims=True)

    @staticmethod
    def conv(x, layer, dilation):
        kernel = layer["kernel"].astype(np.float64)
        reach = (len(kernel) - 1) * dilation // 2
        padded = np.pad(np.asarray(x, dtype=np.float64), ((reach, reach), (0, 0)))
        taps = (padded[tap * dilation :][: len(x)] @ matrix for tap, matrix in enumerate(kernel))
        return sum(taps) + layer["bias"]

    @staticmethod
    def norm(x, layer):
        return (x - layer["moving_mean"]) / np.sqrt(layer["moving_variance"] + 1e-3) * layer["gamma"] + layer["beta"]


def _number(name):
    return int(name.rpartition("_")[2])


class KerasFile:
    """Writes a network as Keras 2 does: every layer numbered in order of creation, taps beside the blocks."""

    def __init__(self, seed=0):
        self.rng = np.random.default_rng(seed)
        self.layers = [{"class_name": "InputLayer", "name": "input_1", "config": {}, "inbound_nodes": []}]
        self.weights = {"input_1": {}}
        self.counts = {}

    def layer(self, kind, prefix, inputs, config, weights=None):
        self.counts[prefix] = self.counts.get(prefix, 0) + 1
        name = f"{prefix}_{self.counts[prefix]}"
        nodes = [[[source, 0, 0, {}] for source in inputs]]
        self.layers.append({"class_name": kind, "name": name, "config": config, "inbound_nodes": nodes})
        self.weights[name] = weights or {}
        return name

    def conv(self, source, width, dilation=1, inputs=WIDTH, outputs=WIDTH, activation="linear"):
        config = {"padding": "same" if width > 1 else "valid", "dilation_rate": [dilation], "strides": [1]}
        kernel = self.rng.normal(size=(width, inputs, outputs)) / np.sqrt(width * inputs)
        weights = {"kernel": kernel, "bias": self.rng.normal(size=outputs)}
        return self.layer("Conv1D", "conv1d", [source], {**config, "activation": activation}, weights)

    def norm_relu(self, source):
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        weights = {name: self.rng.uniform(0.5, 1.5, size=WIDTH) for name in names}
        norm = self.layer("BatchNormalization", "batch_normalization", [source], {"epsilon": 1e-3}, weights)
        return self.layer("Activation", "activation", [norm], {"activation": "relu"})

    def add(self, first, second):
        return self.layer("Add", "add", [first, second], {})

    def write(self, path):
        with h5py.File(path, "w") as file:
            file.attrs["model_config"] = json.dumps({"class_name": "Model", "config": {"layers": self.layers}})
            for name, arrays in self.weights.items():
                group = file.create_group(f"model_weights/{name}")
                for key, array in arrays.items():
                    group[f"{name}/{key}:0"] = array.astype(np.float32)
                group.attrs["weight_names"] = np.array([f"{name}/{key}:0".encode() for key in arrays])
        return path


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory):
    keras = KerasFile()
    stream = keras.conv("input_1", 1, inputs=4)
    skip = keras.conv(stream, 1)
    for block, (kernel, dilation) in enumerate(zip(KERNELS, DILATIONS, strict=True)):
        x = keras.conv(keras.norm_relu(stream), kernel, dilation)
        x = keras.conv(keras.norm_relu(x), kernel, dilation)
        stream = keras.add(x, stream)
        if block % 2:
            skip = keras.add(skip, keras.conv(stream, 1))
    cropped = keras.layer("Cropping1D", "cropping1d", [skip], {"cropping": [CONTEXT, CONTEXT]})
    keras.conv(cropped, 1, outputs=3, activation="softmax")
    return keras.write(tmp_path_factory.mktemp("spliceai") / "tiny.h5")


@pytest.fixture(scope="module")
def tiny(tiny_file):
    return Spliceai(tiny_file)


def dna(length, seed=1):
    return "".join(np.random.default_rng(seed).choice(list("ACGT"), size=length))


def example(content):
    return Example("bad", "bad", content)


def test_every_layer_equals_the_float64_reference(tiny_file, device):
    tiny = Spliceai(tiny_file, device)
    letters = dna(2 * CONTEXT + 30)
    stream, _ = Reference(read_keras(tiny_file)[1], DILATIONS, 2).run(one_hot(letters, "dna"))
    acts = tiny.forward([example(letters)], range(5))
    assert tiny.n_layers == 4
    assert acts.tokens_per_example == [30]
    for layer in range(5):
        assert acts.layers[layer].dtype == np.float32
        assert acts.layers[layer].shape == (30, tiny.d_in(layer))
        np.testing.assert_allclose(acts.layers[layer], stream[layer][CONTEXT:-CONTEXT], atol=1e-5)


def test_the_head_equals_the_float64_reference(tiny, tiny_file):
    import torch

    codes = one_hot(dna(2 * CONTEXT + 30), "dna")
    _, expected = Reference(read_keras(tiny_file)[1], DILATIONS, 2).run(codes)
    head = tiny.network.steps[-1].name
    got = tiny.network.run(torch.from_numpy(codes.T[None]), [head])[head][0].numpy().T
    np.testing.assert_allclose(got, expected[CONTEXT:-CONTEXT], atol=1e-6)


def test_recorded_positions_do_not_feel_the_ends_of_the_window(tiny):
    whole = dna(2 * CONTEXT + 50)
    for layer in range(5):
        of_whole = tiny.forward([example(whole)], [layer]).layers[layer]
        of_part = tiny.forward([example(whole[7:-11])], [layer]).layers[layer]
        np.testing.assert_allclose(of_part, of_whole[7:-11], atol=1e-5)


def test_the_context_reaches_as_far_as_the_last_block_sees(tiny):
    """A nucleotide at the window's end changes the first recorded position of the last layer, and no earlier layer's
    beyond its own, smaller reach."""
    letters = dna(2 * CONTEXT + 1)
    changed = ("C" if letters[0] == "A" else "A") + letters[1:]
    before, after = (tiny.forward([example(text)], range(5)) for text in (letters, changed))
    moved = [not np.array_equal(before.layers[layer], after.layers[layer]) for layer in range(5)]
    assert moved == [False, False, False, False, True]


def test_batch_and_company_change_nothing(tiny):
    examples = [example(dna(2 * CONTEXT + extra, seed=extra)) for extra in (5, 40, 1)]
    together = tiny.forward(examples, [0, 4])
    assert together.tokens_per_example == [5, 40, 1]
    for layer in (0, 4):
        alone = np.concatenate([tiny.forward([one], [layer]).layers[layer] for one in examples])
        np.testing.assert_allclose(together.layers[layer], alone, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_lower_precision_stays_near(tiny, tiny_file, dtype):
    examples = [example(dna(2 * CONTEXT + 30))]
    exact, rounded = (source.forward(examples, [4]).layers[4] for source in (tiny, Spliceai(tiny_file, dtype=dtype)))
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - exact).max() < 0.1 * np.abs(exact).max()


def test_one_hot_is_acgt_in_order_and_zeros_for_the_unknown():
    np.testing.assert_array_equal(one_hot("ACGTNacgtR", "x"), np.vstack([np.eye(4), np.zeros(4)] * 2))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("A" * 2 * CONTEXT, f"'bad' has {2 * CONTEXT} nucleotides; at least {2 * CONTEXT + 1} are needed"),
        ("MKVLE" * 20, "reads DNA, but example 'bad' holds the letters E, L"),
        (np.zeros((2, 2, 3), dtype=np.uint8), "reads text, but example 'bad' is an image"),
    ],
)
def test_examples_of_another_kind_are_refused(tiny, content, message):
    with pytest.raises(UserError, match=message):
        tiny.forward([example(content)], [1])


@pytest.mark.parametrize("layer", [-1, 5])
def test_layers_beyond_either_end_are_refused(tiny, layer):
    with pytest.raises(UserError, match="its layers are 0 to 4"):
        tiny.forward([example(dna(2 * CONTEXT + 1))], [layer])


def test_files_that_are_no_such_network_are_refused(tmp_path):
    (tmp_path / "text.h5").write_text("not h5")
    with pytest.raises(UserError, match=r"text\.h5: not a Keras h5 file"):
        Spliceai(tmp_path / "text.h5")
    with h5py.File(tmp_path / "plain.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(UserError, match=r"plain\.h5: not a Keras h5 file"):
        Spliceai(tmp_path / "plain.h5")
    keras = KerasFile()
    keras.conv("input_1", 1, inputs=4)
    with pytest.raises(UserError, match="not a SpliceAI network"):
        Spliceai(keras.write(tmp_path / "no_blocks.h5"))
    keras.conv("conv1d_1", 1)
    keras.layers[-1]["inbound_nodes"] *= 2  # as Keras writes a layer that is used at two places
    with pytest.raises(UserError, match="layer 'conv1d_2' runs 2 times in a pass"):
        Spliceai(keras.write(tmp_path / "twice.h5"))
    keras.layers.pop()
    keras.layer("LSTM", "lstm", ["conv1d_1"], {})
    with pytest.raises(UserError, match=r"layer 'lstm_1' \(LSTM\)"):
        Spliceai(keras.write(tmp_path / "lstm.h5"))


@pytest.mark.models
def test_the_real_network_equals_the_float64_reference():
    import torch

    path = fetch(
        Wheel(
            pypi="spliceai==1.3.1",
            wheel="spliceai-1.3.1-py2.py3-none-any.whl",
            sha256="63c633b8de6803d4ffb613e6ef62f1a896fec9fc13245c0f000ff7adea279776",
            inside="spliceai/models/spliceai1.h5",
        )
    )
    source = Spliceai(path)
    assert (source.n_layers, source.context, source.d_in(16)) == (16, (5000, 5000), 32)
    letters = dna(10_050)
    codes = one_hot(letters, "dna")
    dilations = [1] * 4 + [4] * 4 + [10] * 4 + [25] * 4
    stream, probabilities = Reference(read_keras(path)[1], dilations, 4).run(codes)
    acts = source.forward([example(letters)], range(17))
    for layer in range(17):
        np.testing.assert_allclose(acts.layers[layer], stream[layer][5000:-5000], atol=5e-4)
    head = source.network.steps[-1].name
    got = source.network.run(torch.from_numpy(codes.T[None]), [head])[head][0].numpy().T
    np.testing.assert_allclose(got.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(got, probabilities[5000:-5000], atol=1e-5)
