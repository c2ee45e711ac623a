"""DINOv2 backbones from an ONNX graph. Its initializers are the weights; the graph itself is not run."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saelib.config.sources import Dinov2OnnxSource
from saelib.datasets.base import Example
from saelib.errors import UserError
from saelib.fetch import fetch
from saelib.sources.base import Activations, check_layers, images, kept_rows, recorded, torch_device, torch_dtype

if TYPE_CHECKING:
    import torch

NAME = "dinov2_onnx"
PREFIX = "backbone."
HEAD_WIDTH = 64
"""Width of a head in every published DINOv2, from S to g; it cannot be read from the initializers."""
MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)
"""Mean of ImageNet's RGB values in [0, 1], which DINOv2 was trained with."""
STD = np.array([0.229, 0.224, 0.225], dtype=np.float32)
"""Standard deviation of the same values."""


def open_source(config: Dinov2OnnxSource, device: str = "cpu", dtype: str = "float32") -> "Dinov2Onnx":
    """Fetches and loads the model (see `saelib.sources.open_source`)."""
    return Dinov2Onnx(fetch(config.weights), config.keep_special_tokens, device, dtype)


class Dinov2Onnx:
    """A DINOv2. Its tokens are the patches, row by row, after the CLS token if that is kept."""

    def __init__(self, path: Path, keep_cls: bool = False, device: str = "cpu", dtype: str = "float32") -> None:
        """Loads the graph at `path`. Raises `UserError` if it holds no DINOv2 backbone."""
        self.device = torch_device(device)
        self.dtype = torch_dtype(dtype)
        self.model = _build(path, read_weights(path), self.dtype).to(self.device).eval()
        self.keep_cls = keep_cls
        self.n_layers: int = self.model.config.num_hidden_layers

    def d_in(self, layer: int) -> int:
        """Returns the width of a layer, which is the same for all."""
        check_layers([layer], self.n_layers, NAME)
        return self.model.config.hidden_size

    def forward(self, examples: Sequence[Example], layers: Sequence[int]) -> Activations:
        """Returns the outputs of the blocks, before the final LayerNorm (see `Source.forward`).

        Raises:
            UserError: also if a side of the images is not a whole number of patches.
        """
        import torch

        check_layers(layers, self.n_layers, NAME)
        pixels = images(examples, NAME)
        height, width = pixels.shape[1:3]
        patch = self.model.config.patch_size
        if height % patch or width % patch:
            raise UserError(
                f"{NAME}: images of {width} x {height} pixels are not whole patches; choose a multiple of {patch}"
            )
        batch = torch.from_numpy(normalize(pixels)).to(self.device, self.dtype)
        with torch.inference_mode(), recorded(self.model.encoder.layer, layers, NAME) as stream:
            self.model(batch)
        keep = torch.ones(len(pixels), 1 + height // patch * (width // patch), dtype=torch.bool, device=self.device)
        keep[:, 0] = self.keep_cls
        return kept_rows(stream, keep)


def normalize(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turns RGB bytes [images, height, width, 3] into the network's input [images, 3, height, width]."""
    scaled = (pixels.astype(np.float32) / np.float32(255) - MEAN) / STD
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


def read_weights(path: Path) -> dict[str, NDArray[Any]]:
    """Reads the backbone's parameters and gives them the names of Hugging Face checkpoints.

    torch's exporter keeps the names of biases and norms, but stores the weight of a linear layer transposed and
    without a name, as the second input of a MatMul. The Add that follows holds the bias, and with it the name. The
    exporter splits the position embedding into two parts without a name: one for the CLS token, one for the patches.

    Raises:
        UserError: if the file is not ONNX or holds no such backbone.
    """
    import onnx
    from google.protobuf.message import DecodeError

    try:
        graph = onnx.load(str(path)).graph
    except (DecodeError, OSError) as error:
        raise UserError(f"{path}: not a readable ONNX file ({error})") from None
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights = {name.removeprefix(PREFIX): array for name, array in arrays.items() if name.startswith(PREFIX)}
    factors = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    for node in graph.node:
        bias = next((name for name in node.input if name.startswith(PREFIX) and name.endswith(".bias")), None)
        product = next((name for name in node.input if factors.get(name) in arrays), None)
        if node.op_type == "Add" and bias and product:
            weights[bias.removeprefix(PREFIX).removesuffix("bias") + "weight"] = arrays[factors[product]].T
    positions = [array for name, array in arrays.items() if array.ndim == 3 and not name.startswith(PREFIX)]
    positions.sort(key=lambda array: array.shape[1])
    if "embeddings.cls_token" not in weights or [array.shape[1] for array in positions[:1]] != [1]:
        raise UserError(f"{path}: holds no DINOv2 backbone (initializers '{PREFIX}*' and its position embedding)")
    weights["embeddings.position_embeddings"] = np.concatenate(positions, axis=1)
    return weights


def _build(path: Path, weights: dict[str, NDArray[Any]], dtype: "torch.dtype") -> Any:
    """Builds a transformers `Dinov2Model` with these weights, whose shapes give its sizes."""
    import torch
    from transformers import Dinov2Config, Dinov2Model

    from saelib.sources.loading.pretrained import quiet_loading

    projection = weights["embeddings.patch_embeddings.projection.weight"]
    hidden, patch = projection.shape[0], projection.shape[-1]
    grid = round((weights["embeddings.position_embeddings"].shape[1] - 1) ** 0.5)
    config = Dinov2Config(
        hidden_size=hidden,
        num_hidden_layers=1 + max(int(name.split(".")[2]) for name in weights if name.startswith("encoder.layer.")),
        num_attention_heads=hidden // HEAD_WIDTH,
        image_size=grid * patch,
        patch_size=patch,
        use_mask_token=False,
    )
    # `from_pretrained` also translates the parameters' names between versions of transformers.
    state = {name: torch.tensor(array) for name, array in weights.items()}
    with quiet_loading():
        loaded: Any = Dinov2Model.from_pretrained(
            None, config=config, state_dict=state, dtype=dtype, output_loading_info=True
        )
    model, found = loaded
    wrong = sorted(found["missing_keys"] | found["unexpected_keys"])
    if wrong:
        raise UserError(f"{path}: does not fit DINOv2; missing or unknown parameters: {', '.join(wrong[:5])}")
    return model
