"""Settings of the data that models are shown, one class per kind of data set."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from saelib.config.base import Count, Section
from saelib.config.files import FilesConfig, Repository


class PythonDocs(Section):
    """English prose: the reference documentation that ships inside every Python."""

    kind: Literal["python_docs"]
    characters: Count = 1000
    """Length of a passage, cut at line ends."""


class HubText(Section):
    """A text data set of the Hugging Face hub, streamed."""

    hf: Repository
    """`organization/name` of the data set."""
    revision: str
    """A commit pins the data; a branch may move."""
    configuration: str | None = None
    """Name of a configuration (subset) of the data set; none: its default one."""
    split: str = "train"
    """Name of the split to read."""


class Text(Section):
    """Documents: streamed from the hub, or local Parquet, Arrow, JSON lines or plain text files."""

    kind: Literal["text"]
    hub: HubText | None = None
    """A data set of the hub, in place of `files`."""
    files: tuple[FilesConfig, ...] = ()
    """`.txt` (a document a file), `.jsonl`, `.json`, these also compressed; `.parquet`, `.arrow`."""
    column: str = "text"
    """Column or JSON field that holds the text."""
    characters: Count | None = None
    """Cut documents into passages of about this length, at line ends; none: a document is one example.
    A document that is the only one is always cut, into passages of 1000 characters where this is not set."""
    buffer: Count = 10_000
    """Examples held in memory to shuffle what streams by."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.hub is None) == (not self.files):
            raise ValueError("needs either `hub` or `files`")
        return self


class Images(Section):
    """Square crops from image files."""

    kind: Literal["images"]
    files: tuple[FilesConfig, ...]
    """Image files, or folders of them."""
    size: Count = 224
    """Pixels along each side of a crop."""
    crops: Count = 16
    """Random crops from each image."""


class Cifar10(Section):
    """CIFAR-10 or -100, or any small images of one size, as whole images scaled up."""

    kind: Literal["cifar10"]
    files: tuple[FilesConfig, ...]
    """`.bin` of the binary version, `.parquet` as on the hub, or a folder of images (in folders by class)."""
    size: Count = 224
    """Pixels along each side after scaling up (bicubic)."""


class Sequences(Section):
    """Protein or nucleotide sequences: FASTA, or flat files of Swiss-Prot or EMBL; plain or compressed."""

    kind: Literal["sequences"]
    files: tuple[FilesConfig, ...]
    """FASTA or flat files, plain or compressed."""
    alphabet: Literal["protein", "dna"]
    """Whether letters are amino acids or nucleotides."""
    window: Count | None = None
    """Cut each record into windows of this length; none: one example a record."""
    max_unknown: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Examples with a larger fraction of letters outside the alphabet are left out (and counted)."""
    sample: Count | None = None
    """Keep this many records, drawn without bias in one pass, whatever the size of the files; none: all."""


DatasetConfig = Annotated[PythonDocs | Text | Images | Cifar10 | Sequences, Field(discriminator="kind")]
