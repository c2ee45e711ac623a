"""Settings of the data that models read, one class per kind of data set."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from saelib.config.base import Count, Section
from saelib.config.files import FilesConfig, Repository


class PythonDocs(Section):
    """English prose: the reference documentation that ships inside every Python."""

    kind: Literal["python_docs"]
    characters: Count = 1000
    """Approximate length of a passage in characters; passages end at line ends."""


class HubText(Section):
    """A text data set on the Hugging Face hub, which is streamed."""

    hf: Repository
    """`organization/name` of the data set."""
    revision: str
    """Commit, branch or tag of the data set. Name a commit (40 hexadecimal digits): a branch may change."""
    configuration: str | None = None
    """Name of a configuration (subset) of the data set. Without it, the data set's default one is read."""
    split: str = "train"
    """Name of the data set's split to read. saelib makes its own held-out split from it."""


class Text(Section):
    """Documents: streamed from the hub, or in local Parquet, Arrow, JSON lines or plain text files."""

    kind: Literal["text"]
    hub: HubText | None = None
    """A data set on the hub. Give either this or `files`."""
    files: tuple[FilesConfig, ...] = ()
    """Text files: `.txt` (one document per file), `.jsonl` and `.json`, plain or compressed; `.parquet`, `.arrow`."""
    column: str = "text"
    """Column or JSON field that holds the text."""
    characters: Count | None = None
    """Approximate length in characters of the passages that documents are cut into, at line ends. Without it, each
    document is one example. Set it for long documents: the held-out split takes whole documents. If there is only one
    document, it is always cut, by default into passages of 1000 characters."""
    buffer: Count = 10_000
    """Examples held in memory to shuffle a stream. Raise it if neighboring documents of the data set are alike."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.hub is None) == (not self.files):
            raise ValueError("needs either `hub` or `files`")
        return self


class TaggedText(Section):
    """Documents whose words carry tags: files of `word/tag`, as the Brown corpus has them, or CoNLL-U. Models read the
    text alone; with `evaluation.labels` of kind `tags`, latents are scored as detectors of parts of speech."""

    kind: Literal["tagged_text"]
    files: Annotated[tuple[FilesConfig, ...], Field(min_length=1)]
    """Tagged files, plain or compressed: `.conllu` and `.conll` are CoNLL-U, and `.txt`, `.pos`, `.tagged` and names
    without an ending are word/tag. Each file is a document, but for CoNLL-U files that mark documents."""
    characters: Count | None = 1000
    """Approximate length in characters of the passages that documents are cut into, at ends of sentences; `null` makes
    each document one example."""
    buffer: Count = 10_000
    """Examples held in memory to shuffle the documents."""


class Images(Section):
    """Square crops from image files of any size."""

    kind: Literal["images"]
    files: tuple[FilesConfig, ...]
    """Image files, or folders of them."""
    size: Count = 224
    """Side of a crop in pixels. It should be the size that the model was trained on."""
    crops: Count = 16
    """Random crops taken from each image. Raise it if `saelib plan` reports too few tokens; more images are better."""


class Cifar10(Section):
    """CIFAR-10 or -100, or any small images of one size, as whole images scaled up."""

    kind: Literal["cifar10"]
    files: tuple[FilesConfig, ...]
    """Files of CIFAR's binary version (`.bin`), the hub's `.parquet`, or a folder of images, also sorted by class."""
    size: Count = 224
    """Side of an image in pixels after bicubic scaling. It should be the size that the model was trained on."""


class Sequences(Section):
    """Protein or nucleotide sequences from FASTA files, or from flat files of Swiss-Prot or EMBL."""

    kind: Literal["sequences"]
    files: tuple[FilesConfig, ...]
    """FASTA or flat files, plain or compressed."""
    alphabet: Literal["protein", "dna"]
    """Alphabet of the sequences: amino acids (`protein`) or nucleotides (`dna`)."""
    window: Count | None = None
    """Length in letters of the windows that records are cut into. Without it, each record is one example. Set it for
    genomes, whose records are longer than a model can read."""
    max_unknown: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Largest fraction of letters outside the alphabet, from 0 to 1. Examples with more are left out and counted."""
    sample: Count | None = None
    """Number of records to keep, drawn without bias in one pass over files of any size. Without it, all are kept. Set
    it for files too large to hold in memory, such as UniRef."""


DatasetConfig = Annotated[PythonDocs | Text | TaggedText | Images | Cifar10 | Sequences, Field(discriminator="kind")]
