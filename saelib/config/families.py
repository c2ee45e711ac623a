"""Options that all sources of activations share, and options of the families that load one kind of model each."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from saelib.config.base import Count, Section
from saelib.config.files import FilesConfig

Dtype = Literal["float32", "bfloat16", "float16"]


class ModelSource(Section):
    """Options of every family that runs a model."""

    batch_size: Count = 8
    """Examples given to the model at once. Lower it if memory runs out; raise it if a GPU is idle."""
    dtype: Dtype | None = None
    """Number format of the forward pass. Without it, `extraction.dtype` applies. Set `bfloat16` for a model too large
    for float32."""


class TokenModelSource(ModelSource):
    """Options of every family that reads rows of tokens."""

    max_length: Count = 256
    """Most tokens of an example that the model reads, special ones included. Keep it within the model's context;
    `long` decides what happens to longer examples."""
    long: Literal["cut", "split", "skip"] = "cut"
    """Treatment of examples longer than `max_length`: `cut` drops the rest, `split` makes several examples of them,
    `skip` leaves them out."""
    batch_tokens: Count | None = None
    """Most tokens of one forward pass, padding included. A batch with more runs in several passes, and an example with
    more runs alone. Set it if lengths vary so much that no `batch_size` suits all batches."""
    keep_special_tokens: bool = False
    """Also record the special tokens that the tokenizer adds, such as `[CLS]` and `<eos>`."""
    drop_first_token: bool = False
    """Leave out the first token of each example's own text, at which many language models have massive activations."""


class Esm2Source(TokenModelSource):
    """ESM2 in the format of the package fair-esm, read without unpickling objects."""

    family: Literal["esm2"]
    weights: FilesConfig
    """The model's `.pt` file."""
    max_length: Count = 1024


class Esm3Source(TokenModelSource):
    """ESM3-open, loaded by the package esm, which needs its own environment (`make env-esm3`)."""

    family: Literal["esm3"]
    weights: FilesConfig
    """The file `esm3_sm_open_v1.pth`, or a folder that holds it."""
    max_length: Count = 1024


class Progen2Source(TokenModelSource):
    """ProGen2: the published CodeGen-like checkpoints, loaded into transformers' GPT-J."""

    family: Literal["progen2"]
    weights: FilesConfig
    """The checkpoint's folder, with config.json, tokenizer.json and safetensors or `.bin` files."""
    max_length: Count = 1024
    reverse: bool = False
    """Read sequences from the C to the N terminus ('2' ... '1' instead of '1' ... '2'). ProGen2 was trained on both."""


class Glm2Source(TokenModelSource):
    """gLM2, which reads proteins and DNA. saelib has its own network for it, so no downloaded code runs."""

    family: Literal["glm2"]
    weights: FilesConfig
    """The checkpoint's folder, with config.json and safetensors or `.bin` files."""
    max_length: Count = 1024
    alphabet: Literal["protein", "dna"] = "protein"
    """Alphabet that letters of either case are read in: amino acids (`protein`) or nucleotides (`dna`). It should
    match the data set's."""
    strand: Literal["+", "-"] = "+"
    """Strand token that precedes each sequence."""


class EvoSource(TokenModelSource):
    """Evo-1: StripedHyena over the bytes of DNA. saelib has its own network for it, so no downloaded code runs."""

    family: Literal["evo"]
    weights: FilesConfig
    """The checkpoint's folder, with config.json and safetensors or `.bin` files."""
    max_length: Count = 8192
    batch_size: Count = 1

    @model_validator(mode="after")
    def _no_special_tokens(self) -> Self:
        if self.keep_special_tokens:
            raise ValueError("keep_special_tokens: Evo reads bytes and has no special tokens; remove it")
        return self


class StableDiffusion3Source(ModelSource):
    """The transformer of Stable Diffusion 3 and 3.5 (diffusers), which reads image tokens at one noise level."""

    family: Literal["stable_diffusion_3"]
    weights: FilesConfig
    """The checkpoint's folder, with `transformer` and `vae` in diffusers' format."""
    timestep: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Fraction of noise, from 0 to 1: the model reads `(1 - timestep) * latents + timestep * noise` (rectified flow).
    Activations depend on it, so state it with your results."""
    noise_seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the noise. An image gets the same noise in every batch."""
    prompt: FilesConfig | None = None
    """A .safetensors file with one prompt's `prompt_embeds` and `pooled_prompt_embeds`. Without it, both are zeros."""
    device_map: Literal["auto", "balanced", "sequential"] | None = None
    """accelerate's strategy to spread the blocks over several GPUs. Without it, the whole model is on one device; set
    `auto` if it does not fit."""
    batch_size: Count = 4


class AlphaFold3Source(ModelSource):
    """AlphaFold 3's Pairformer single representation (layer 0), read from embeddings that its own program saves."""

    family: Literal["alphafold3"]
    outputs: Path
    """Folder of AlphaFold 3's outputs. Proteins whose embeddings are already there are not computed again."""
    inputs: Path
    """Folder for the input JSON files that saelib writes for AlphaFold 3."""
    command: tuple[str, ...] = ()
    """Command and arguments that run AlphaFold 3 on each batch; `{input_dir}` and `{output_dir}` are filled in. Without
    it, run the program yourself on the files that `saelib alphafold3-inputs` writes."""
    max_length: Count = 1024
    """Most residues of a protein. Longer proteins are left out, because cutting one would change its fold."""
    batch_size: Count = 16

    @model_validator(mode="after")
    def _precision_is_the_programs(self) -> Self:
        if self.dtype is not None:
            raise ValueError("dtype: AlphaFold 3's program has a precision of its own; remove it")
        return self


class AntibertySource(TokenModelSource):
    """AntiBERTy: a BERT over antibody residues, with one token per residue."""

    family: Literal["antiberty"]
    weights: FilesConfig
    """The folder `trained_models` of the package antiberty."""
    max_length: Count = 512


class Dinov2OnnxSource(ModelSource):
    """A DINOv2 backbone, rebuilt from the weights in an ONNX file."""

    family: Literal["dinov2_onnx"]
    weights: FilesConfig
    """The `.onnx` file."""
    keep_special_tokens: bool = False
    """Also record the CLS token, which represents no patch."""


class SpliceaiSource(ModelSource):
    """SpliceAI-10k: a residual convolutional network over one-hot DNA (Keras h5)."""

    family: Literal["spliceai"]
    weights: FilesConfig
    """One of the five `.h5` files of the package spliceai."""
    batch_size: Count = 4
