"""Stable Diffusion 3 and 3.5 (Esser et al. 2024, arXiv:2403.03206): the image tokens of its transformer, by diffusers.

The VAE turns an image into latents (the mean of its posterior, shifted and scaled), and the transformer reads
`(1 - t) latents + t noise`, its input at time t. The noise depends only on the seed and the image, not on the batch.
The text encoders are not needed, because the prompt is given as embeddings: zeros (which the model saw in training
whenever a caption was dropped), or embeddings from a file.
"""

import hashlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from saelib.config.sources import StableDiffusion3Source
from saelib.datasets.base import Example
from saelib.environments import require_packages
from saelib.errors import UserError
from saelib.fetch import describe, fetch
from saelib.sources.base import Activations, check_layers, images, kept_rows, recorded, torch_device, torch_dtype

if TYPE_CHECKING:
    import torch

PROMPT_TOKENS = 77 + 256
"""Number of tokens in a prompt of zeros, as in diffusers' pipeline (CLIP's and T5's). Image tokens attend to them."""
TIME_SCALE = 1000
"""The model's clock runs from 0 (image) to 1000 (noise)."""


def open_source(config: StableDiffusion3Source, device: str, dtype: str) -> "StableDiffusion3":
    """Loads the subfolders `transformer` and `vae` of a diffusers repository; nothing else in it is read.

    Raises:
        UserError: if diffusers is not installed, the folders are incomplete or do not fit each other, or the file of
            the prompt does not fit the model.
    """
    require_packages(config.family)
    name = f"Stable Diffusion 3 ({describe(config.weights)})"
    folder = fetch(config.weights)
    target = torch_device(device)
    import torch
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel

    transformer = _load(SD3Transformer2DModel, folder / "transformer", name, torch_dtype(dtype), config.device_map)
    # The VAE is always float32: it is small, and the published ones ask for it (`force_upcast`).
    vae = _load(AutoencoderKL, folder / "vae", name, torch.float32).to(target)
    vae.enable_slicing()  # one image at a time, because its activations at full resolution are large
    if config.device_map is None:
        transformer.to(target)
    if vae.config.latent_channels != transformer.config.in_channels:
        raise UserError(
            f"{name}: the VAE's latents have {vae.config.latent_channels} channels, "
            f"but the transformer reads {transformer.config.in_channels}"
        )
    return StableDiffusion3(name, config, transformer, vae, _prompt(config, transformer, name))


class StableDiffusion3:
    """The transformer after its VAE, as a `saelib.sources.Source`. Tokens are patches of 2 x 2 latents, row by row."""

    def __init__(
        self,
        name: str,
        config: StableDiffusion3Source,
        transformer: Any,
        vae: Any,
        prompt: tuple["torch.Tensor", "torch.Tensor"],
    ) -> None:
        """Takes loaded models, and a prompt as embeddings [tokens, width] and pooled embedding [pooled width]."""
        self.n_layers = len(transformer.transformer_blocks)
        self._name = name
        self._config = config
        self._transformer = transformer
        self._vae = vae
        self._prompt = prompt

    def d_in(self, layer: int) -> int:
        """Returns the width of a layer (see `Source.d_in`)."""
        check_layers([layer], self.n_layers, self._name)
        return self._transformer.inner_dim

    def forward(self, examples: Sequence[Example], layers: Sequence[int]) -> Activations:
        """Runs the VAE and the transformer on images (see `Source.forward`). Layer 0 is the embedded patches.

        Raises:
            UserError: also for images that are not whole patches, or are larger than the model's positions allow.
        """
        import torch

        check_layers(layers, self.n_layers, self._name)
        pixels = images(examples, self._name)
        tokens = self._patches(*pixels.shape[1:3])
        with torch.inference_mode():
            latents = self._noised(self._latents(pixels), [example.id for example in examples])
            embeddings, pooled = (part.to(latents).expand(len(latents), *part.shape) for part in self._prompt)
            time = torch.full((len(latents),), TIME_SCALE * self._config.timestep, device=latents.device)
            with recorded(self._transformer.transformer_blocks, layers, self._name, _image_stream) as stream:
                self._transformer(latents, embeddings, pooled, time, return_dict=False)
        return kept_rows(stream, torch.ones(len(pixels), tokens, dtype=torch.bool))

    def _patches(self, height: int, width: int) -> int:
        """Returns the number of tokens of an image."""
        settings = self._transformer.config
        pixels = settings.patch_size * 2 ** (len(self._vae.config.block_out_channels) - 1)
        largest = pixels * settings.pos_embed_max_size
        if height % pixels or width % pixels or max(height, width) > largest:
            raise UserError(
                f"{self._name}: images of {width} x {height} pixels do not fit; choose a dataset.size that is a "
                f"multiple of {pixels}, at most {largest}"
            )
        return (height // pixels) * (width // pixels)

    def _latents(self, pixels: NDArray[np.uint8]) -> "torch.Tensor":
        """Encodes RGB bytes [images, height, width, 3] as float32 [images, channels, height / 8, width / 8]."""
        import torch

        scaled = torch.from_numpy(pixels).to(self._vae.device).permute(0, 3, 1, 2).float() / 127.5 - 1
        mean = self._vae.encode(scaled).latent_dist.mean
        return (mean - (self._vae.config.shift_factor or 0.0)) * self._vae.config.scaling_factor

    def _noised(self, latents: "torch.Tensor", ids: Sequence[str]) -> "torch.Tensor":
        """Mixes the configured share of noise into the latents, and returns them in the transformer's dtype."""
        import torch

        shape = tuple(latents.shape[1:])
        noise = np.stack([_noise(self._config.noise_seed, one, shape) for one in ids])
        share = self._config.timestep
        mixed = (1 - share) * latents + share * torch.from_numpy(noise).to(latents.device)
        return mixed.to(self._transformer.dtype)


def _noise(seed: int, example: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Draws standard normal numbers that depend only on the seed and the example's id, not on device or batch."""
    digest = hashlib.sha256(f"{seed} {example}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest)).standard_normal(shape, dtype=np.float32)


def _image_stream(value: Any) -> "torch.Tensor":
    """Returns the image tokens from a block's output (text, image), which is (None, image) in the last block.

    The input of a block is the image tokens themselves.
    """
    return value[1] if isinstance(value, tuple) else value


def _load(kind: Any, folder: Path, name: str, dtype: "torch.dtype", device_map: str | None = None) -> Any:
    from diffusers.utils import logging as diffusers_logging

    diffusers_logging.set_verbosity(logging.CRITICAL)  # its warnings are errors here, which are raised below
    if not sys.stderr.isatty():
        diffusers_logging.disable_progress_bar()
    try:
        model, info = kind.from_pretrained(
            folder,
            torch_dtype=dtype,
            device_map=device_map,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    # TypeError and RuntimeError come from configs and weights of other models.
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"{name}: {folder} holds no {kind.__name__} in safetensors: {reason}") from None
    wrong = sorted([*info["missing_keys"], *info["unexpected_keys"]])
    if wrong:
        raise UserError(f"{name}: {folder}: missing or unknown weights of {kind.__name__}: {', '.join(wrong[:3])}")
    return model


def _prompt(config: StableDiffusion3Source, transformer: Any, name: str) -> tuple["torch.Tensor", "torch.Tensor"]:
    """Returns the prompt's embeddings [tokens, joint_attention_dim] and pooled embedding [pooled_projection_dim]."""
    import torch
    from safetensors.torch import load_file

    width, pooled_width = transformer.config.joint_attention_dim, transformer.config.pooled_projection_dim
    if config.prompt is None:
        return torch.zeros(PROMPT_TOKENS, width), torch.zeros(pooled_width)
    file = fetch(config.prompt)
    try:
        found = load_file(file)
        embeddings, pooled = found["prompt_embeds"], found["pooled_prompt_embeds"]
    except (OSError, SafetensorError, KeyError) as error:
        raise UserError(
            f"{name}: prompt {file}: not a .safetensors with prompt_embeds and pooled_prompt_embeds ({error})"
        ) from None
    embeddings, pooled = embeddings.squeeze(0), pooled.squeeze(0)  # pipelines return them with a batch axis
    if embeddings.shape != (len(embeddings), width) or pooled.shape != (pooled_width,):
        raise UserError(
            f"{name}: prompt {file}: prompt_embeds are {list(embeddings.shape)} and pooled_prompt_embeds "
            f"{list(pooled.shape)}; this model reads one prompt of [tokens, {width}] and [{pooled_width}]"
        )
    return embeddings, pooled
