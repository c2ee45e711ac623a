"""Runs a model over its held-out examples and says for every token what it stands for."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saelib.config import Config
from saelib.config.sites import Layer
from saelib.config.sources import ArraysSource
from saelib.datasets.base import Example
from saelib.errors import UserError
from saelib.evaluation.seen import EXAMPLE_COLUMNS

if TYPE_CHECKING:
    import polars as pl

KINDS = {"sequences": "sequence", "images": "image", "cifar10": "image"}
"""Kind of a data set -> what its examples are; all others hold text."""


@dataclass(frozen=True, eq=False)
class HeldOutBatch:
    """The tokens of one forward pass."""

    layers: Mapping[Layer, NDArray[np.float32]]
    """Layer -> [tokens, d_in]."""
    examples: Sequence[Example]
    counts: Sequence[int]
    """Tokens of each example."""
    spans: NDArray[np.int32] | None
    """[tokens, 2] or, for images, [tokens, 4], as in `saelib.sources.spans`; None if the family cannot tell."""
    why_no_spans: str = ""


class HeldOut:
    """A model of the suite and its held-out examples, ready to run."""

    def __init__(self, config: Config, name: str) -> None:
        """Loads the model, unless its activations are in files."""
        self.config, self.name = config, name
        self.model = config.models[name]
        if not isinstance(self.model.source, ArraysSource):
            self._open()

    def _open(self) -> None:
        import torch

        from saelib.datasets import open_dataset
        from saelib.devices.cards import job_device
        from saelib.sources import open_source
        from saelib.sources.precision import exact_float32

        torch.set_num_threads(self.config.extraction.threads)
        source: Any = self.model.source
        device = job_device(self.config.extraction.device, "extraction.device", float64=True)
        with exact_float32():
            self.source = open_source(source, device, source.dtype or self.config.extraction.dtype)
        self.dataset = open_dataset(self.config.datasets[self.model.dataset or ""])

    @property
    def kind(self) -> str:
        """Names the kind of the examples: text, sequence, image or row."""
        if self.model.dataset is None:
            return "row"
        return KINDS.get(self.config.datasets[self.model.dataset].kind, "text")

    def batches(self, layers: Sequence[Layer], tokens: int) -> Iterator[HeldOutBatch]:
        """Yields the passes over the held-out examples; the last is the one that reaches `tokens`.

        Raises:
            UserError: If an activation is not finite, or if the data hold no token.
        """
        found = 0
        for batch in self._of_files(layers) if self.kind == "row" else self._of_model(layers):
            for layer, acts in batch.layers.items():
                if not np.isfinite(acts).all():
                    ids = ", ".join(example.id for example in batch.examples[:3])
                    raise UserError(f"{self.name} layer {layer}: activations of {ids} ... are not finite")
            yield batch
            found += sum(batch.counts)
            if found >= tokens:
                return
        if not found:
            raise UserError(f"{self.name}: its held-out data have no token to evaluate on; raise heldout_fraction")

    def examples(self) -> Iterator[Example]:
        """Yields the held-out examples without running the model."""
        yield from self.dataset.examples("heldout", self.config.seed, self.config.heldout_fraction)

    def _of_model(self, layers: Sequence[Layer]) -> Iterator[HeldOutBatch]:
        from saelib.sources.precision import exact_float32

        source: Any = self.model.source
        examples = self.examples()
        while chunk := list(islice(examples, source.batch_size)):
            with exact_float32():
                acts = self.source.forward(chunk, layers)
            if sum(acts.tokens_per_example):
                spans, why = self._spans(chunk, acts.tokens_per_example)
                yield HeldOutBatch(acts.layers, chunk, acts.tokens_per_example, spans, why)

    def _spans(self, examples: Sequence[Example], counts: Sequence[int]) -> tuple[NDArray[np.int32] | None, str]:
        from saelib.sources.spans import find_spans

        try:
            return np.concatenate(find_spans(self.model.source, self.source, examples, counts)), ""
        except UserError as error:
            return None, str(error)

    def _of_files(self, layers: Sequence[Layer]) -> Iterator[HeldOutBatch]:
        from saelib.extract.batches import open_batches

        for batch in open_batches(self.name, self.config, layers)("heldout"):
            first = int(batch.ids[0].removeprefix("row "))
            rows = np.arange(first, first + len(batch.example), dtype=np.int32)
            numbers, counts = np.unique(batch.example, return_counts=True)
            examples = [Example(name, name, "") for name in batch.ids[: len(numbers)]]
            yield HeldOutBatch(batch.layers, examples, counts.tolist(), np.stack([rows, rows + 1], axis=1))


class SeenTables:
    """The tables of examples and tokens, row by row."""

    def __init__(self, kind: str) -> None:
        """Starts empty; `kind` is that of `HeldOut`."""
        self._kind = kind
        self._examples: dict[str, list[Any]] = {name: [] for name in EXAMPLE_COLUMNS}
        self._spans: list[NDArray[np.int32] | None] = []
        self._tokens = 0
        self.notes: list[str] = []
        """Reasons why tokens have no spans."""
        self.groups: list[str] = []
        """The group of each example."""

    @property
    def counts(self) -> list[int]:
        """Tokens of each example."""
        return self._examples["tokens"]

    def add(self, batch: HeldOutBatch) -> None:
        """Adds the examples and tokens of a batch."""
        if batch.why_no_spans and batch.why_no_spans not in self.notes:
            self.notes.append(batch.why_no_spans)
        for example, count in zip(batch.examples, batch.counts, strict=True):
            shown = self._kind in ("text", "sequence")
            row = {
                "example": len(self._examples["id"]),
                "id": example.id,
                "kind": self._kind,
                "text": example.content if shown else None,
                "image": _png(example.content) if self._kind == "image" else None,
                "first_token": self._tokens,
                "tokens": count,
            }
            for name, value in row.items():
                self._examples[name].append(value)
            self._tokens += count
            self.groups.append(example.group)
        self._spans.append(batch.spans)

    def frames(self) -> tuple["pl.DataFrame", "pl.DataFrame"]:
        """Gives the tables of examples and tokens, as `write_seen` takes them but for the column `massive`."""
        import polars as pl

        counts = self.counts
        spans = [one for one in self._spans if one is not None]
        table = np.concatenate(spans) if len(spans) == len(self._spans) else None
        names = ("x0", "y0", "x1", "y1") if self._kind == "image" else ("start", "end")
        columns = {name: None if table is None else table[:, i] for i, name in enumerate(names)}
        tokens = pl.DataFrame({"example": np.repeat(np.arange(len(counts)), counts)})
        types = {name: getattr(pl, kind) for name, kind in EXAMPLE_COLUMNS.items()}
        examples = pl.DataFrame(self._examples, schema=types)
        return examples, tokens.with_columns(
            pl.lit(None).alias(name) if values is None else pl.Series(name, values) for name, values in columns.items()
        )


def _png(pixels: Any) -> bytes:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(file, "PNG")
    return file.getvalue()
