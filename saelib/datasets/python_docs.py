"""English technical prose that needs no download: the language reference that ships with Python (`pydoc_data.topics`).

The text is that of the running Python: another minor version words some passages differently.
"""

from collections.abc import Iterator

from saelib.config.datasets import PythonDocs
from saelib.datasets.base import Example, Split, split_by_group
from saelib.datasets.passages import passages
from saelib.errors import UserError


def open_dataset(config: PythonDocs) -> "TopicPassages":
    """The topics of the running Python, cut into passages of about `config.characters`.

    Raises:
        UserError: where this Python was installed without them.
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
    """Passages of documents: one group a document, cut at line ends into parts of equal length."""

    def __init__(self, documents: dict[str, str], characters: int) -> None:
        """`documents`: title -> text; `characters`: wanted length of a passage."""
        self._passages = [
            Example(f"{title}:{start}-{stop}", title, text[start:stop].strip())
            for title, text in _without_repeats(documents).items()
            for start, stop in passages(text, characters)
        ]

    def examples(self, split: Split, seed: int, heldout_fraction: float) -> Iterator[Example]:
        """See `Dataset.examples`."""
        groups = [example.group for example in self._passages]
        yield from split_by_group(self._passages, groups, split, seed, heldout_fraction, "dataset python_docs")


def _without_repeats(documents: dict[str, str]) -> dict[str, str]:
    """Leave out documents that are mostly a part of a longer one: their text would stand in both splits.

    Every fourth of Python's topics is such a copy (`for` and `while` are sections of `compound`).
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
