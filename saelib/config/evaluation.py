"""Settings of stage `evaluate`: what is measured of trained SAEs, on which tokens, and against which labels."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from saelib.config.base import Count, Name, Section
from saelib.config.files import FilesConfig, LocalFiles

Baseline = Literal["random", "neurons", "pca"]


class AnnotationLabels(Section):
    """Annotations of sequences in Swiss-Prot flat files, GenBank or EMBL files, found by the letters of a sequence."""

    kind: Literal["annotations"]
    files: Annotated[tuple[FilesConfig, ...], Field(min_length=1)]
    """Files that `saelib.evaluation.read_annotations` reads. The data set may read other files with the same sequences,
    such as FASTA."""


class TagLabels(Section):
    """Tags of words (parts of speech and features) in word/tag or CoNLL-U files."""

    kind: Literal["tags"]
    files: Annotated[tuple[FilesConfig, ...], Field(min_length=1)]
    """The files of the data set, which is of kind `tagged_text`."""


class FolderLabels(Section):
    """The folder of an image is its class."""

    kind: Literal["folders"]


class ClassLabels(Section):
    """Classes of whole images, from the files of their data set, which is of kind `cifar10`.

    The class is the label in a `.bin` file, the column `label` (or `fine_label`, `coarse_label`) of a `.parquet` file,
    or the folder of an image file.
    """

    kind: Literal["classes"]
    names: tuple[Annotated[str, StringConstraints(min_length=1)], ...] = ()
    """Names of the classes 0, 1, 2 ..., in this order. Without them, classes are called by their numbers (`class 0`).
    Folders have names already."""
    level: Literal["fine", "coarse"] = "fine"
    """The label to read if images have two. CIFAR-100 has 100 fine classes and 20 coarse ones."""


class MaskLabels(Section):
    """Segmentation masks of images: each pixel's gray value or color is its class."""

    kind: Literal["masks"]
    files: Annotated[tuple[FilesConfig, ...], Field(min_length=1)]
    """PNG files, or folders of them, named like the images (`street/7.png` for `street/7.jpg`, or `7.png` alone), of
    the same size in pixels. A folder's own subfolders are not read: name each."""
    classes: dict[str, str] = {}
    """Names of the classes: gray value ('7') or color ('#800000') -> name. Classes without a name, such as the
    background, are then left out. Without any names, all are classes, called by their values."""


class TableLabels(Section):
    """A table with a row for each row of the activation files, in the same order."""

    kind: Literal["table"]
    file: LocalFiles
    """A .csv, .tsv or .parquet file. Truth values, whole numbers and texts are labels."""
    columns: tuple[str, ...] | None = None
    """Columns to read. Without it, all."""


LabelsConfig = Annotated[
    AnnotationLabels | TagLabels | FolderLabels | ClassLabels | MaskLabels | TableLabels, Field(discriminator="kind")
]


LABELED = {
    "annotations": "sequences",
    "tags": "tagged_text",
    "folders": "images",
    "classes": "cifar10",
    "masks": "images",
    "table": "arrays",
}
"""Kind of labels -> the kind of data sets, or the family of models, that they are for."""


class ProbingConfig(Section):
    """k-sparse probing of the labels (docs/evaluation.md)."""

    ks: Annotated[tuple[Count, ...], Field(min_length=1)] = (1, 4, 16)
    """Numbers of latents that a probe may use."""
    concepts: Count = 20
    """Concepts to probe for, the most frequent ones. Each takes about a second for each SAE."""


class EmbeddingsConfig(Section):
    """Embeddings of the examples by an independent model, for monosemanticity scores."""

    model: Name
    """Another model of the suite that reads the same data set."""
    layer: Annotated[int, Field(ge=0)]
    """Layer whose activations, averaged over the tokens of an example, are its embedding."""


class EvaluationConfig(Section):
    """Stage `evaluate`: measures the trained SAEs on held-out examples, next to baselines (docs/evaluation.md)."""

    tokens: Count = 100_000
    """Held-out tokens to measure on. The pass ends with the batch that reaches this number, or with the data. With more
    tokens, fewer latents count as dead and rare concepts are scored better."""
    baselines: tuple[Baseline, ...] = ("random", "neurons", "pca")
    """SAEs that nobody trained, to compare with: random directions, raw neurons, principal components. Each keeps
    `train.k` latents for a token."""
    reference: Name | tuple[Name, ...] | None = None
    """Variant that all others are compared with, or several. Without it, the first one of `train.variants`."""
    labels: dict[Name, LabelsConfig] = {}
    """Labels of the examples, by the name of a data set or, for activations in files, of the model. With labels,
    latents are scored as detectors of concepts."""
    min_domains: Count = 10
    """Occurrences that a concept needs to be scored, in each of the two halves of the examples. InterPLM takes 25."""
    probing: ProbingConfig | None = None
    """Probing of the labels. Without it, there is none. `{}` has the defaults."""
    embeddings: dict[Name, EmbeddingsConfig] = {}
    """Embeddings for monosemanticity scores, by the name of the model whose SAEs are scored."""
    structures: dict[Name, LocalFiles] = {}
    """Structures of proteins, by the name of a data set of sequences: a folder of .cif or .pdb files that are named by
    the sequences' ids (docs/features.md). The pages of latents show activations on them."""
    ce_loss_tokens: Count | None = None
    """Predicted tokens on which to measure how much of the model's loss is recovered if an SAE's reconstructions
    replace the activations. It runs the model once for each SAE and twice more. Without it, the loss is not measured.
    Families transformers (language models, and masked ones), antiberty and esm2; others say that they have no head."""

    @property
    def references(self) -> tuple[str, ...]:
        """The variants that others are compared with, if any are named."""
        return (self.reference,) if isinstance(self.reference, str) else self.reference or ()
