"""Options that all sources of activations share, and those of the families that know one kind of model each."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from saelib.config.base import Count, Section
from saelib.config.files import FilesConfig

Dtype = Literal["float32", "bfloat16", "float16"]


class ModelSource(Section):
    """Options of every family that runs a model in the job itself."""

    batch_size: Count = 8
    """Examples handed to the model at once."""
    dtype: Dtype | None = None
    """Number format of the forward pass. Without it, `extraction.dtype` applies."""


class TokenModelSource(ModelSource):
    """Options of every family that reads rows of tokens."""

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

    @model_validator(mode="after")
    def _no_special_tokens(self) -> Self:
        if self.keep_special_tokens:
            raise ValueError("keep_special_tokens: Evo reads bytes and has no special tokens; remove it")
        return self


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
    """Spread the blocks over several GPUs, as accelerate does; none: the whole model on one device."""
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

    @model_validator(mode="after")
    def _precision_is_the_programs(self) -> Self:
        if self.dtype is not None:
            raise ValueError("dtype: AlphaFold 3's program has a precision of its own; remove it")
        return self


class AntibertySource(TokenModelSource):
    """AntiBERTy: a BERT over antibody residues, one residue a token."""

    family: Literal["antiberty"]
    weights: FilesConfig
    max_length: Count = 512


class Dinov2OnnxSource(ModelSource):
    """A DINOv2 backbone read out of an ONNX graph's initializers."""

    family: Literal["dinov2_onnx"]
    weights: FilesConfig
    keep_special_tokens: bool = False
    """Also take the CLS token, which carries no patch."""


class SpliceaiSource(ModelSource):
    """SpliceAI-10k: a residual convolutional network over one-hot DNA (Keras h5)."""

    family: Literal["spliceai"]
    weights: FilesConfig
    batch_size: Count = 4
