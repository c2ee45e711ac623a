"""English technical prose that needs no download: the language reference that ships with Python (`pydoc_data.topics`).

The text comes from the running Python; other minor versions word some passages differently.
"""

from collections.abc import Iterator

from saelib.config.datasets import PythonDocs
from saelib.datasets.base import Example, Split, split_by_group
from saelib.datasets.passages import passages
from saelib.errors import UserError


def open_dataset(config: PythonDocs) -> "TopicPassages":
    """Cuts the topics of the running Python into passages of about `config.characters` characters.

    Raises:
        UserError: if this Python was installed without them.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise UserError(
            "dataset python_docs: this Python was installed without the module 'pydoc_data.topics'; "
            "install Python's full standard library or name another dataset"
        ) from None
    return TopicPassages(topics, config.characters)


class TopicPassages:
    """Passages of documents, cut at line ends into parts of about equal length. Each document is one group."""

    def __init__(self, documents: dict[str, str], characters: int) -> None:
        """Cuts `documents` (title -> text) into passages of about `characters` characters."""
        self._passages = [
            Example(f"{title}:{start}-{stop}", title, text[start:stop].strip())
            for title, text in _without_repeats(documents).items()
            for start, stop in passages(text, characters)
        ]

    def examples(self, split: Split, seed: int, heldout_fraction: float) -> Iterator[Example]:
        """Yields the examples of a split (see `Dataset.examples`)."""
        groups = [example.group for example in self._passages]
        yield from split_by_group(self._passages, groups, split, seed, heldout_fraction, "dataset python_docs")


def _without_repeats(documents: dict[str, str]) -> dict[str, str]:
    """Leaves out documents that mostly repeat a longer one, so that no text is in both splits.

    One in four of Python's topics is such a copy (`for` and `while` are sections of `compound`).
    """
    kept: dict[str, str] = {}
    seen: set[str] = set()
    for title in sorted(documents, key=lambda title: (-len(documents[title]), title)):
        lines = {line.strip() for line in documents[title].splitlines()}
        repeated = sum(len(line) for line in lines & seen)
        if 2 * repeated <= sum(len(line) for line in lines):
            kept[title] = documents[title]
        seen |= lines
    return kept
