"""Documents that are streamed from the Hugging Face hub, or from local files of any size."""

import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from saelib.config.datasets import HubText, TaggedText, Text
from saelib.config.files import HubFiles
from saelib.datasets.base import Example, Split, keyed_hash, split_by_group
from saelib.datasets.decoding import unified
from saelib.datasets.listing import Listing, list_files
from saelib.datasets.passages import passages
from saelib.datasets.text_files import ALLOWED, Documents, file_documents, first_line, format_of, row_documents
from saelib.errors import UserError
from saelib.fetch.hub import commit, hub_errors

log = logging.getLogger(__name__)

ELSEWHERE = "download its Parquet files elsewhere and name them: files: [{path: /the/folder}]"
BLOCKS, BLOCK_CHARACTERS = 20, 200
"""A lone document is cut into `BLOCKS` blocks, or fewer if they would be shorter than `BLOCK_CHARACTERS`."""
LONE_PASSAGE = 1000
"""Length of a lone document's passages if `characters` is not set."""
COUNTS = {
    "documents": "documents read",
    "empty": "empty",
    "repeated": "left out because an earlier one has the same text",
    "blocks": "blocks cut from the only document",
    "passages": "passages left out because an earlier block has the same text",
    "examples": "examples of this split",
}
"""Key of a count -> its description in the log."""


def listing(config: Text) -> Listing:
    """Lists the local files. Raises `UserError` if there are none."""
    return list_files("text", config.files, lambda file: bool(format_of(file)), ALLOWED)


def open_dataset(config: Text) -> "StreamedText":
    """Finds the documents, without reading them yet.

    Raises:
        UserError: if the hub cannot be reached, or the files cannot be fetched.
    """
    if config.hub:
        pinned = config.hub.model_copy(update={"revision": _pinned(config.hub)})
        return StreamedText(lambda: hub_documents(pinned, config.column), f"text (hf {config.hub.hf})", config)
    files = listing(config).files
    shown = ", ".join(file.name for file in files[:3]) + (", ..." if len(files) > 3 else "")
    return StreamedText(lambda: file_documents(files, config.column), f"text ({shown})", config)


class StreamedText:
    """Documents, or passages of them. The content of a document is its group; content and seed decide its split.

    If there is only one document, it is cut into blocks, and each block is a group.
    """

    def __init__(self, documents: Callable[[], Documents], name: str, config: Text | TaggedText) -> None:
        """Takes `documents`, which starts reading from the beginning each time it is called."""
        self._documents, self._name, self._config = documents, name, config
        self.counts: Counter[str] = Counter()
        """Counts of the last reading; the keys are those of `COUNTS`."""
        self._bounds: dict[int, tuple[int, int]] = {}
        """Seed -> lowest and highest hash that `_look` found."""

    def examples(self, split: Split, seed: int, heldout_fraction: float) -> Iterator[Example]:
        """Yields the examples of a split (see `Dataset.examples`).

        Each document is held out with probability `heldout_fraction`, independently of the others. If that leaves a
        split empty, it gets the document whose hash came nearest. If there is only one document, blocks with that
        share of its passages are held out, at least one.

        The examples come in the order of the stream, mixed by a buffer of `config.buffer` examples from which the next
        one is drawn.
        """
        limit = int(heldout_fraction * 2**64)
        low, high = self._look(seed, limit)
        self.counts = Counter()
        try:
            if low == high:
                yield from self._of_lone(split, seed, heldout_fraction)
            else:
                # Documents below the limit are held out: at least the lowest one, and never the highest.
                found = self._of_many(split, seed, min(max(limit, low + 1), high))
                yield from shuffled(found, self._config.buffer, np.random.default_rng(seed))
        finally:  # also if the reader stops early
            told = ", ".join(f"{self.counts[key]:,} {COUNTS[key]}" for key in COUNTS if self.counts[key])
            log.info("%s, %s: %s", self._name, split, told)

    def _look(self, seed: int, limit: int) -> tuple[int, int]:
        """Returns the lowest and the highest hash among the documents.

        Reading stops as soon as both splits are known to have a document.

        Raises:
            UserError: if there is no document.
        """
        low, high = self._bounds.get(seed, (2**64, -1))
        if low < limit <= high:
            return low, high
        self.counts = Counter()
        for _, group, _ in self._distinct():
            rank = keyed_hash(seed, group)
            low, high = min(low, rank), max(high, rank)
            if low < limit <= high:
                break
        if high < 0:
            count = self.counts["documents"]
            raise UserError(f"{self._name}: is empty: none of its {count} document{'s' * (count != 1)} holds any text")
        self._bounds[seed] = low, high
        return low, high

    def _distinct(self) -> Iterator[tuple[str, str, str]]:
        """Yields (name, group, text) of each distinct document that is not empty, and counts all of them."""
        seen: set[bytes] = set()
        for name, raw in self._documents():
            self.counts["documents"] += 1
            text = unified(raw)
            # Texts that differ only in their Unicode normal form are the same document.
            same = unicodedata.normalize("NFC", text.strip())
            digest = hashlib.blake2b(same.encode(), digest_size=8).digest()
            if not same:
                self.counts["empty"] += 1
            elif digest in seen:
                self.counts["repeated"] += 1
            else:
                seen.add(digest)
                yield name, digest.hex(), text

    def _of_many(self, split: Split, seed: int, limit: int) -> Iterator[Example]:
        for name, group, text in self._distinct():
            if (keyed_hash(seed, group) < limit) == (split == "heldout"):
                for example in self._examples(name, group, text):
                    self.counts["examples"] += 1
                    yield example

    def _examples(self, name: str, group: str, text: str) -> Iterator[Example]:
        if self._config.characters is None:
            yield Example(name, group, text.strip())
            return
        for start, stop in passages(text, self._config.characters):
            yield Example(f"{name}:{start}-{stop}", group, text[start:stop].strip())

    def _of_lone(self, split: Split, seed: int, heldout_fraction: float) -> Iterator[Example]:
        """Yields passages of the only document, which is split by blocks of neighboring passages."""
        ((name, _, text),) = self._distinct()
        count = min(BLOCKS, len(text) // BLOCK_CHARACTERS)
        blocks = list(passages(text, len(text) // count)) if count > 1 else []
        self.counts["blocks"] = len(blocks)
        found: list[Example] = []
        seen: set[str] = set()
        for number, (begin, end) in enumerate(blocks):
            own: set[str] = set()
            for start, stop in passages(text[begin:end], self._config.characters or LONE_PASSAGE):
                content = text[begin + start : begin + stop].strip()
                if content in seen:
                    self.counts["passages"] += 1
                    continue
                own.add(content)
                found.append(Example(f"{name}:{begin + start}-{begin + stop}", f"block {number}", content))
            seen |= own
        groups = [example.group for example in found]
        if len(set(groups)) < 2:
            raise UserError(
                f"{self._name}: has one document only, of {len(text):,} characters, which cannot be cut into blocks "
                f"of which some are held out (at least {BLOCK_CHARACTERS} characters each, not all alike); "
                "give more documents"
            )
        chosen = split_by_group(found, groups, split, seed, heldout_fraction, self._name)
        self.counts["examples"] = len(chosen)
        yield from chosen


def shuffled(examples: Iterable[Example], size: int, rng: np.random.Generator) -> Iterator[Example]:
    """Yields every example once, drawn from a buffer of `size` examples that is refilled from the stream."""
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


def hub_documents(hub: HubText, column: str) -> Documents:
    """Yields the documents of a data set of the hub, downloading as it reads. Code in the data set is never run.

    Raises:
        UserError: if the hub or the library `datasets` refuses, or there is no such column.
    """
    from datasets import load_dataset

    name = f"hf {hub.hf}"
    with hub_errors(_as_files(hub), ELSEWHERE):
        try:
            rows = load_dataset(hub.hf, hub.configuration, split=hub.split, revision=hub.revision, streaming=True)
        except (ValueError, RuntimeError) as error:  # an unknown configuration or split, a data set made by a script
            raise UserError(f"{name}: {first_line(error)}") from None
        if rows.column_names and column in rows.column_names:
            rows = rows.select_columns([column])
        yield from row_documents(rows, column, hub.hf, name)


def _pinned(hub: HubText) -> str:
    found = commit(_as_files(hub), ELSEWHERE)
    if found != hub.revision:
        log.warning("hf %s: '%s' is now %s; to pin it, set `revision` to that commit", hub.hf, hub.revision, found)
    return found


def _as_files(hub: HubText) -> HubFiles:
    return HubFiles(hf=hub.hf, revision=hub.revision, repo_type="dataset")
