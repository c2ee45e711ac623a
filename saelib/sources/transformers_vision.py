"""Any vision transformer that transformers' `AutoModel` loads: DINOv2, DINOv3, ViT and similar models."""

import inspect
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from saelib.config.sources import TransformersVisionSource
from saelib.datasets.base import Example
from saelib.errors import UserError
from saelib.fetch import describe, fetch
from saelib.files.sealed import read_json
from saelib.sources.base import Activations, check_layers, images, input_device, kept_rows, recorded, torch_dtype
from saelib.sources.loading.pretrained import find_blocks, load_model, width

log = logging.getLogger(__name__)

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Mean and standard deviation of ImageNet's RGB values in [0, 1]."""


def open_source(config: TransformersVisionSource, device: str, dtype: str) -> "VisionTransformer":
    """Loads the model. Pickled objects are never built, and code from the checkpoint never runs.

    Raises:
        UserError: if the files are not a complete checkpoint of a known architecture of this kind.
    """
    name = f"vision transformer ({describe(config.weights)})"
    folder = fetch(config.weights)
    model = load_model(name, folder, device, dtype, device_map=config.device_map)
    return VisionTransformer(name, model, Normalization(folder, name), config.keep_special_tokens, dtype)


class Normalization:
    """Turns bytes into the network's input as the checkpoint's image processor does, but without resizing."""

    def __init__(self, folder: Path, name: str) -> None:
        """Reads `preprocessor_config.json`; without one, it uses ImageNet's mean and deviation and logs a warning."""
        file = folder / "preprocessor_config.json"
        settings: dict[str, Any] = {}
        if file.is_file():
            settings = read_json(file)
        else:
            log.warning("%s: no preprocessor_config.json; images are normalized by ImageNet's mean and deviation", name)
        for key in ("rescale_offset", "offset"):
            if settings.get(key):
                raise UserError(f"{file}: {key} is not understood: pixels would be shifted; use family: module")
        self.scale = np.float32(settings.get("rescale_factor", 1 / 255) if settings.get("do_rescale", True) else 1)
        self.channels = slice(None, None, -1 if settings.get("do_flip_channel_order") else 1)
        mean, std = settings.get("image_mean", IMAGENET[0]), settings.get("image_std", IMAGENET[1])
        if not settings.get("do_normalize", True):
            mean, std = (0, 0, 0), (1, 1, 1)
        try:
            self.mean, self.std = (np.array(value, np.float32).reshape(3) for value in (mean, std))
        except (TypeError, ValueError):
            raise UserError(f"{file}: image_mean and image_std have to be three numbers each") from None

    def __call__(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Turns RGB bytes [images, height, width, 3] into float32 [images, 3, height, width]."""
        scaled = (pixels[..., self.channels] * self.scale - self.mean) / self.std
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))


class VisionTransformer:
    """A vision transformer. Its tokens are the patches, row by row, after the special tokens if these are kept."""

    def __init__(self, name: str, model: Any, normalize: Normalization, keep_special: bool, dtype: str) -> None:
        """Takes a loaded model. Raises `UserError` if it has no patches or its blocks are not found."""
        self.name = name
        self._model = model.eval()
        self._blocks = find_blocks(model, name)
        self.n_layers = len(self._blocks)
        self._d_in = width(model, name)
        patch = getattr(model.config, "patch_size", None)
        if patch is None or getattr(model.config, "num_channels", 3) != 3:
            raise UserError(f"{name}: {type(model).__name__} is not a transformer over patches of RGB images")
        self._patch = (patch, patch) if isinstance(patch, int) else tuple(patch)
        self._normalize = normalize
        self._keep_special = keep_special
        self._dtype = torch_dtype(dtype)
        # DINO always fits its position embeddings to the size of the image; other models do so only if asked.
        asked = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
        self._options = {"interpolate_pos_encoding": True} if asked else {}

    def d_in(self, layer: int) -> int:
        """Returns the width of a layer, which is the same for all."""
        check_layers([layer], self.n_layers, self.name)
        return self._d_in

    def forward(self, examples: Sequence[Example], layers: Sequence[int]) -> Activations:
        """Returns the outputs of the blocks, before the final norm (see `Source.forward`).

        Raises:
            UserError: also if a side of the images is not a whole number of patches.
        """
        check_layers(layers, self.n_layers, self.name)
        pixels = images(examples, self.name)
        patches = self._patches(*pixels.shape[1:3])
        batch = torch.from_numpy(self._normalize(pixels)).to(input_device(self._model), self._dtype)
        with torch.inference_mode(), recorded(self._blocks, layers, self.name) as stream:
            try:
                self._model(pixel_values=batch, **self._options)
            except (TypeError, ValueError) as error:
                raise UserError(f"{self.name}: does not run on pixels alone, or not on this size: {error}") from None
        special = max((values.shape[1] for values in stream.values()), default=patches) - patches
        # There may be a CLS token, and DeiT has a second one like it.
        if not 0 <= special <= 2 + getattr(self._model.config, "num_register_tokens", 0):
            raise UserError(
                f"{self.name}: {type(self._model).__name__} does not have one token per patch; use family: module"
            )
        keep = torch.ones(len(pixels), special + patches, dtype=torch.bool)
        keep[:, :special] = self._keep_special
        return kept_rows(stream, keep)

    def _patches(self, height: int, width: int) -> int:
        """Returns the number of patches of an image."""
        rows, columns = self._patch
        if height % rows or width % columns:
            raise UserError(
                f"{self.name}: images of {width} x {height} pixels are not whole patches; choose a multiple of "
                f"{columns} as the dataset's size"
            )
        return height // rows * (width // columns)
