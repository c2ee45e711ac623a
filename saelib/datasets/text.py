"""Documents that stream by: from the Hugging Face hub, or from local files of any size."""

import glob
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from saelib.config.datasets import HubText, Text
from saelib.config.files import HubFiles
from saelib.datasets.base import Example, Split, keyed_hash
from saelib.datasets.passages import passages
from saelib.errors import UserError
from saelib.fetch import describe, fetch_files
from saelib.fetch.hub import commit, hub_errors

log = logging.getLogger(__name__)

BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".jsonl": "json", ".json": "json"}
"""Suffix, before a `.gz` -> how the library `datasets` calls the format."""
NOT_DATA = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What `datasets` writes beside its data."""
ELSEWHERE = "download its Parquet files elsewhere and name them: files: [{path: /the/folder}]"

Documents = Iterable[tuple[str, str]]
"""(name for messages, text)"""
Rows = Iterable[dict[str, Any]]
"""column -> value"""


def open_dataset(config: Text) -> "StreamedText":
    """Find the documents; nothing is read yet.

    Raises:
        UserError: where the hub cannot be asked, or no file can be had.
    """
    if config.hub:
        pinned = config.hub.model_copy(update={"revision": _pinned(config.hub)})
        return StreamedText(lambda: hub_documents(pinned, config.column), f"text (hf {config.hub.hf})", config)
    found = [file for files in config.files for file in fetch_files(files)]
    wanted = [file for file in found if _format(file) and file.name not in NOT_DATA]
    if not wanted:
        places = "; ".join(describe(files) for files in config.files)
        raise UserError(f"text: no {', '.join((*BUILDERS, '.txt'))} files in {places}")
    shown = ", ".join(file.name for file in wanted[:3]) + (", ..." if len(wanted) > 3 else "")
    return StreamedText(lambda: file_documents(wanted, config.column), f"text ({shown})", config)


class StreamedText:
    """Documents or passages of them. A document's content decides its group, and with the seed its split."""

    def __init__(self, documents: Callable[[], Documents], name: str, config: Text) -> None:
        """`documents` starts reading from the beginning each time it is called."""
        self._documents, self._name, self._config = documents, name, config
        self.counts: Counter[str] = Counter()
        """Of the last reading: 'documents' read, 'empty' and 'repeated' ones left out, 'examples' of this split."""

    def examples(self, split: Split, seed: int, heldout_fraction: float) -> Iterator[Example]:
        """See `Dataset.examples`. Each document is held out with a chance of `heldout_fraction`, whatever the others.

        Order: as they come, mixed by a buffer of `config.buffer` examples, from which the next is drawn.
        """
        self.counts = Counter()
        try:
            found = self._split(split, seed, heldout_fraction)
            yield from shuffled(found, self._config.buffer, np.random.default_rng(seed))
        finally:  # where the reader has enough, too
            log.info("%s, %s: %s", self._name, split, ", ".join(f"{n} {what}" for what, n in self.counts.items()))
        if not self.counts["examples"]:
            raise UserError(
                f"{self._name}: none of its {self.counts['documents']} documents ({self.counts['empty']} empty, "
                f"{self.counts['repeated']} repeated) is in the {split} split; give more documents"
            )

    def _split(self, split: Split, seed: int, heldout_fraction: float) -> Iterator[Example]:
        seen: set[bytes] = set()
        for name, text in self._documents():
            self.counts["documents"] += 1
            digest = hashlib.blake2b(text.strip().encode(errors="surrogatepass"), digest_size=8).digest()
            if not text.strip():
                self.counts["empty"] += 1
            elif digest in seen:
                self.counts["repeated"] += 1
            else:
                seen.add(digest)
                group = digest.hex()
                if (keyed_hash(seed, group) < heldout_fraction * 2**64) == (split == "heldout"):
                    for example in self._examples(name, group, text):
                        self.counts["examples"] += 1
                        yield example

    def _examples(self, name: str, group: str, text: str) -> Iterator[Example]:
        if self._config.characters is None:
            yield Example(name, group, text.strip())
            return
        for start, stop in passages(text, self._config.characters):
            yield Example(f"{name}:{start}-{stop}", group, text[start:stop].strip())


def shuffled(examples: Iterable[Example], size: int, rng: np.random.Generator) -> Iterator[Example]:
    """Every example once, drawn from a buffer of `size`, which is filled up again from the stream."""
    buffer: list[Example] = []
    for example in examples:
        if len(buffer) < size:
            buffer.append(example)
        else:
            place = int(rng.integers(size))
            yield buffer[place]
            buffer[place] = example
    for place in rng.permutation(len(buffer)):
        yield buffer[place]


def file_documents(files: list[Path], column: str) -> Documents:
    """Documents of local files, one file after another, a few rows at a time.

    Raises:
        UserError: for a file that is damaged or has no such column.
    """
    for file in files:
        name, kind = f"{file.parent.name}/{file.name}", _format(file)
        if not file.stat().st_size:
            raise UserError(f"{file}: is empty")
        try:
            if kind == "text":
                yield name, file.read_text(encoding="utf-8")
            elif kind == "parquet":
                yield from _documents(_parquet_rows(file, column), column, name, str(file))
            else:
                yield from _documents(_streamed_rows(file, kind), column, name, str(file))
        # What the formats' readers raise; pyarrow's and the codecs' errors are ValueErrors.
        except (ValueError, EOFError, OSError, RuntimeError) as error:
            raise UserError(f"{file}: not readable as {kind} ({_first_line(error)})") from None


def _parquet_rows(file: Path, column: str) -> Rows:
    # Not by the library `datasets`: of a local file, it holds all that it has passed.
    import pyarrow.parquet as pq

    with pq.ParquetFile(file, memory_map=True) as table:
        names = table.schema_arrow.names
        columns = [column] if column in names else names
        for batch in table.iter_batches(batch_size=1000, columns=columns):
            yield from batch.to_pylist()


def _streamed_rows(file: Path, kind: str) -> Rows:
    from datasets import load_dataset

    # The library takes names for patterns.
    return load_dataset(kind, data_files=glob.escape(str(file)), split="train", streaming=True)


def hub_documents(hub: HubText, column: str) -> Documents:
    """Documents of a data set of the hub, fetched as they are read. Code that comes with a data set is not run.

    Raises:
        UserError: where the hub or the library `datasets` refuses, or there is no such column.
    """
    from datasets import load_dataset

    name = f"hf {hub.hf}"
    with hub_errors(_as_files(hub), ELSEWHERE):
        try:
            rows = load_dataset(hub.hf, hub.configuration, split=hub.split, revision=hub.revision, streaming=True)
        except (ValueError, RuntimeError) as error:  # an unknown configuration or split, a data set made by a script
            raise UserError(f"{name}: {_first_line(error)}") from None
        if rows.column_names and column in rows.column_names:
            rows = rows.select_columns([column])
        yield from _documents(rows, column, hub.hf, name)


def _documents(rows: Rows, column: str, name: str, place: str) -> Documents:
    """The text of each row. `place`: what messages about the whole call it."""
    for number, row in enumerate(rows):
        if column not in row:
            raise UserError(f"{place}: has no column '{column}'; its columns are {', '.join(row)}")
        if not isinstance(row[column], str | None):
            raise UserError(f"{place}: column '{column}' holds no text, but {type(row[column]).__name__}")
        yield f"{name}#{number}", row[column] or ""


def _pinned(hub: HubText) -> str:
    found = commit(_as_files(hub), ELSEWHERE)
    if found != hub.revision:
        log.warning("hf %s: '%s' is now %s; to keep it, put that as `revision`", hub.hf, hub.revision, found)
    return found


def _as_files(hub: HubText) -> HubFiles:
    return HubFiles(hf=hub.hf, revision=hub.revision, repo_type="dataset")


def _format(file: Path) -> str:
    """What a file holds, by its name; '' where it is none of ours."""
    plain = file.name.lower().removesuffix(".gz")
    if plain.endswith(".txt"):
        return "text" if plain == file.name.lower() else ""
    return next((kind for suffix, kind in BUILDERS.items() if plain.endswith(suffix)), "")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
