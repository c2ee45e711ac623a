"""SpliceAI-10k (Jaganathan et al., Cell 2019): a residual convolutional network over DNA, loaded without Keras."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saelib.config.sources import SpliceaiSource
from saelib.datasets.base import Example
from saelib.errors import UserError
from saelib.fetch import fetch
from saelib.sources.base import Activations, check_layers, kept_rows, texts, torch_device, torch_dtype

if TYPE_CHECKING:
    import torch

NAME = "spliceai"
AMBIGUOUS = "NRYSWKMBDHV"
"""IUPAC letters for 'one of several nucleotides'; they are encoded as zeros, as SpliceAI encodes N."""


def open_source(config: SpliceaiSource, device: str = "cpu", dtype: str = "float32") -> "Spliceai":
    """Fetches and loads the model (see `saelib.sources.open_source`)."""
    return Spliceai(fetch(config.weights), device, dtype)


class Spliceai:
    """SpliceAI. Tokens are nucleotides; layer i is the residual stream after residual block i.

    Layer 0 is the stream that the first block reads. The skip path, which collects the stream after every fourth block
    for the output, is not part of it.

    The recorded positions of a window are those for which the network itself has an output: all except `context` =
    (5000, 5000) positions at its ends. Since the last block reaches exactly that far, no recorded value of any layer
    depends on the zeros beyond the window, and all layers have the same positions.
    """

    def __init__(self, path: Path, device: str = "cpu", dtype: str = "float32") -> None:
        """Loads a Keras h5 file. Raises `UserError` if it is not one, or holds another kind of network."""
        self.device = torch_device(device)
        self.dtype = torch_dtype(dtype)
        layers, weights = read_keras(path)
        self.network = Network(path, layers, weights, self.device, self.dtype)
        self.stream = residual_stream(layers)
        self.n_layers = len(self.stream) - 1
        crops = [layer["config"]["cropping"] for layer in layers if layer["class_name"] == "Cropping1D"]
        if self.n_layers < 1 or len(crops) != 1:
            raise UserError(f"{path}: not a SpliceAI network (residual blocks, then one Cropping1D)")
        self.context: tuple[int, int] = tuple(crops[0])
        self._width = len(weights[self.stream[0]]["bias"])

    def d_in(self, layer: int) -> int:
        """Returns the width of a layer, which is the same for all."""
        check_layers([layer], self.n_layers, NAME)
        return self._width

    def forward(self, examples: Sequence[Example], layers: Sequence[int]) -> Activations:
        """Runs the network on the examples (see `Source.forward`).

        Raises:
            UserError: also for an example that is not DNA, or is too short to have a recorded position.
        """
        import torch

        check_layers(layers, self.n_layers, NAME)
        before, after = self.context
        codes = [one_hot(text, example.id) for text, example in zip(texts(examples, NAME), examples, strict=True)]
        for code, example in zip(codes, examples, strict=True):
            if len(code) <= before + after:
                raise UserError(
                    f"{NAME}: example '{example.id}' has {len(code)} nucleotides; at least {before + after + 1} are "
                    f"needed, because a recorded one needs {before} before and {after} after it as context. "
                    f"Give the dataset 'min_length: {before + after + 1}' and 'window: {before + after + 2000}' or more"
                )
        longest = max(len(code) for code in codes)
        batch = torch.zeros(len(codes), 4, longest, device=self.device, dtype=self.dtype)
        keep = torch.zeros(len(codes), longest, device=self.device, dtype=torch.bool)
        for row, code in enumerate(codes):
            batch[row, :, : len(code)] = torch.from_numpy(code.T)
            keep[row, before : len(code) - after] = True
        with torch.inference_mode():
            values = self.network.run(batch, [self.stream[layer] for layer in layers])
        return kept_rows({layer: values[self.stream[layer]].transpose(1, 2) for layer in layers}, keep)


def one_hot(sequence: str, name: str) -> NDArray[np.float32]:
    """Encodes a sequence as [nucleotides, 4], in the order A, C, G, T, with zeros for unknown nucleotides.

    Raises:
        UserError: for letters that are not DNA. Its message calls the sequence `name`.
    """
    sequence = sequence.upper()
    foreign = sorted(set(sequence) - set("ACGT" + AMBIGUOUS))
    if foreign:
        raise UserError(f"{NAME}: reads DNA, but example '{name}' holds the letters {', '.join(foreign[:8])}")
    letters = np.frombuffer(sequence.encode("ascii"), dtype=np.uint8)
    return (letters[:, None] == np.frombuffer(b"ACGT", dtype=np.uint8)).astype(np.float32)


def residual_stream(layers: list[dict[str, Any]]) -> list[str]:
    """Returns the names of the layers that hold the residual stream, block by block.

    The stream starts at the first convolution and continues with each Add that has the stream so far as one of its
    inputs. All other Adds belong to the skip path.
    """
    stream = [layer["name"] for layer in layers if layer["class_name"] == "Conv1D"][:1]
    for layer in layers:
        if layer["class_name"] == "Add" and stream[-1] in _inputs(layer):
            stream.append(layer["name"])
    return stream


def read_keras(path: Path) -> tuple[list[dict[str, Any]], dict[str, dict[str, NDArray[np.float32]]]]:
    """Reads the layers of a Keras 2 h5 file, each after its inputs, and the weights: layer -> "kernel", "bias", ...

    Raises:
        UserError: if the file is not such a file.
    """
    import h5py

    try:
        with h5py.File(path, "r") as file:
            layers = json.loads(str(file.attrs["model_config"]))["config"]["layers"]
            weights: dict[str, dict[str, NDArray[np.float32]]] = {}
            groups: Any = file["model_weights"]
            for name, group in groups.items():
                # A weight has a name such as "conv1d_1/kernel:0"; the names are bytes of fixed length.
                stored = [str(key) for key in np.asarray(group.attrs["weight_names"], dtype=str)]
                weights[name] = {key.rpartition("/")[2].partition(":")[0]: group[key][()] for key in stored}
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not a Keras h5 file with a model ({error})") from None
    return layers, weights


@dataclass(frozen=True)
class Step:
    """One layer of the network, ready to run."""

    name: str
    inputs: tuple[str, ...]
    run: Callable[..., "torch.Tensor"]


class Network:
    """A Keras functional model of 1-d convolutions, run in torch. Values are [batch, channels, positions]."""

    def __init__(
        self,
        path: Path,
        layers: list[dict[str, Any]],
        weights: dict[str, dict[str, NDArray[np.float32]]],
        device: "torch.device",
        dtype: "torch.dtype",
    ) -> None:
        """Builds the network, which messages call `path`. Raises `UserError` for layers that SpliceAI does not have."""
        import torch

        self.input = layers[0]["name"]
        self.steps: list[Step] = []
        for layer in layers[1:]:
            name, kind = layer["name"], layer["class_name"]
            if len(layer["inbound_nodes"]) != 1:
                raise UserError(
                    f"{path}: layer '{name}' runs {len(layer['inbound_nodes'])} times in a pass; should run once"
                )
            tensors = {key: torch.tensor(array).to(device, dtype) for key, array in weights[name].items()}
            try:
                run = MAKERS[kind](layer["config"], tensors)
            except (KeyError, ValueError) as error:
                raise UserError(f"{path}: layer '{name}' ({kind}) is not one that SpliceAI has ({error})") from None
            self.steps.append(Step(name, _inputs(layer), run))
        self._last_reader = {name: step.name for step in self.steps for name in step.inputs}

    def run(self, batch: "torch.Tensor", wanted: Sequence[str]) -> dict[str, "torch.Tensor"]:
        """Returns the outputs of the wanted layers.

        Other outputs are freed when their last reader has run, and no layer runs after the last wanted one.
        """
        values, missing = {self.input: batch}, set(wanted)
        for step in self.steps:
            if not missing:
                break
            values[step.name] = step.run(*(values[name] for name in step.inputs))
            missing.discard(step.name)
            for name in set(step.inputs).difference(wanted):
                if self._last_reader[name] == step.name:
                    del values[name]
        return {name: values[name] for name in wanted}


def _inputs(layer: dict[str, Any]) -> tuple[str, ...]:
    return tuple(source[0] for node in layer["inbound_nodes"] for source in node)


def _convolution(config: dict[str, Any], tensors: dict[str, "torch.Tensor"]) -> Callable[..., "torch.Tensor"]:
    from torch.nn.functional import conv1d

    plain = {"strides": [1], "groups": 1, "data_format": "channels_last", "padding": config["padding"]}
    other = [f"{key} {config[key]}" for key, value in plain.items() if config.get(key, value) != value]
    if other or config["padding"] not in ("same", "valid"):
        raise ValueError(", ".join(other) or f"padding {config['padding']}")
    # Keras stores [width, inputs, outputs], torch [outputs, inputs, width].
    kernel, bias = tensors["kernel"].permute(2, 1, 0).contiguous(), tensors["bias"]
    padding, dilation, activate = config["padding"], config["dilation_rate"][0], _activation(config, tensors)
    return lambda x: activate(conv1d(x, kernel, bias, padding=padding, dilation=dilation))


def _batch_norm(config: dict[str, Any], tensors: dict[str, "torch.Tensor"]) -> Callable[..., "torch.Tensor"]:
    from torch.nn.functional import batch_norm

    mean, variance, gamma, beta = (tensors[key] for key in ("moving_mean", "moving_variance", "gamma", "beta"))
    return lambda x: batch_norm(x, mean, variance, gamma, beta, eps=config["epsilon"])


def _activation(config: dict[str, Any], tensors: dict[str, "torch.Tensor"]) -> Callable[..., "torch.Tensor"]:
    import torch

    return {"linear": lambda x: x, "relu": torch.relu, "softmax": lambda x: x.softmax(dim=1)}[config["activation"]]


def _add(config: dict[str, Any], tensors: dict[str, "torch.Tensor"]) -> Callable[..., "torch.Tensor"]:
    return lambda x, y: x + y


def _crop(config: dict[str, Any], tensors: dict[str, "torch.Tensor"]) -> Callable[..., "torch.Tensor"]:
    before, after = config["cropping"]
    return lambda x: x[:, :, before : x.shape[2] - after]


MAKERS = {
    "Conv1D": _convolution,
    "BatchNormalization": _batch_norm,
    "Activation": _activation,
    "Add": _add,
    "Cropping1D": _crop,
}
