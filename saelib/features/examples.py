"""Examples as the page shows them: the part of a text or sequence that some latent needs, or a picture's patches."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from saelib.features.choose import REACH, Shown
from saelib.features.pictures import write_pictures
from saelib.features.scripts import write_script
from saelib.features.structures import as_record, read_structure

if TYPE_CHECKING:
    import polars as pl

    from saelib.evaluation.seen import Seen

MARGIN = 100
"""Characters that are kept before the first and after the last token that is shown."""
LONGEST_TOKEN = 500
"""Characters of a token that are shown; more of it would hide its neighbors."""
LONGEST_PREVIEW = 24
"""Characters of a token in the list."""
LONGEST_ID = 300
"""Characters of an example's id."""


class Examples:
    """Makes the records of examples."""

    def __init__(
        self,
        seen: "Seen",
        annotations: "pl.DataFrame | None" = None,
        structures: Mapping[int, Path] | None = None,
    ) -> None:
        """Opens the examples of an evaluation.

        Args:
            seen: The evaluation.
            annotations: Parts of sequences to show along them, with the columns example, start, end and concept.
            structures: Number of an example -> the file of its structure.
        """
        self._structures = structures or {}
        self.rows, self._images = seen.examples.drop("image").to_dicts(), seen.examples["image"]
        self.first_token = seen.examples["first_token"].to_numpy()
        names = ("x0", "y0", "x1", "y1") if "x0" in seen.tokens.columns else ("start", "end")
        traced = bool(self.rows) and not seen.tokens[names[0]].null_count()
        self.kind = self.rows[0]["kind"] if traced else "row"
        """The kind of data: text, sequence, image or row. Tokens that nobody can trace back are rows."""
        self._spans = seen.tokens.select(names).to_numpy() if traced else self._numbers()
        self._massive = seen.tokens["massive"].to_numpy()
        self.sizes: dict[int, tuple[int, int]] = {}
        self._notes: dict[int, list[tuple[int, int, str]]] = {}
        if annotations is not None:
            for number, *note in annotations.select("example", "start", "end", "concept").iter_rows():
                self._notes.setdefault(number, []).append(tuple(note))

    def _numbers(self) -> NDArray[np.int64]:
        """Numbers the tokens of each example, [tokens, 1], in place of their spans."""
        counts = [row["tokens"] for row in self.rows]
        return np.concatenate([np.arange(count) for count in counts] or [np.zeros(0, np.int64)])[:, None]

    def peak_text(self, shown: Shown) -> str:
        """Gives the text of the token at the peak; of a sequence, with three letters on either side."""
        row = self.rows[shown.example]
        start, end = (int(place) for place in self._spans[row["first_token"] + shown.peak])
        around = 3 if self.kind == "sequence" else 0
        text = row["text"]
        if not around:
            return text[start:end][:LONGEST_PREVIEW]
        return f"{text[max(0, start - around) : start]}[{text[start:end]}]{text[end : end + around]}"

    def peak_patch(self, shown: Shown) -> list[int]:
        """Gives the example, its picture's size and the box of the patch at the peak: x0, y0, x1, y1, in pixels."""
        box = self._spans[self.rows[shown.example]["first_token"] + shown.peak]
        return [shown.example, *self.sizes[shown.example], *box.tolist()]

    def write_pictures(self, folder: Path, shown: Sequence[Shown]) -> None:
        """Writes the pictures of the examples that are shown, if they have any, into a new folder."""
        if self.kind == "image":
            numbers = sorted({one.example for one in shown})
            self.sizes = write_pictures(folder, numbers, lambda number: self._images[number])

    def write_structures(self, folder: Path, shown: Sequence[Shown]) -> None:
        """Writes scripts with the structures of the examples that are shown, if they have any."""
        for number in sorted({one.example for one in shown} & self._structures.keys()):
            found = read_structure(self._structures[number], self.rows[number]["text"])
            write_script(folder, f"structures/{number}", as_record(found))

    def records(self, shown: Sequence[Shown]) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yields number and record of each example that is shown, in order."""
        peaks: dict[int, tuple[int, int]] = {}
        for one in shown:
            low, high = peaks.get(one.example, (one.peak, one.peak))
            peaks[one.example] = min(low, one.peak), max(high, one.peak)
        for number in sorted(peaks):
            yield number, self._record(self.rows[number], peaks[number])

    def _record(self, row: Mapping[str, Any], peaks: tuple[int, int]) -> dict[str, Any]:
        whole = self.kind == "image"
        start = 0 if whole else max(0, peaks[0] - REACH)
        stop = row["tokens"] if whole else min(row["tokens"], peaks[1] + REACH + 1)
        inside = slice(row["first_token"] + start, row["first_token"] + stop)
        record: dict[str, Any] = {
            "id": row["id"][:LONGEST_ID],
            "first": start,
            "count": stop - start,
            "massive": (np.flatnonzero(self._massive[inside]) + start).tolist(),
        }
        spans = self._spans[inside].astype(np.int64)
        if self.kind in ("text", "sequence"):
            return record | self._text(row, spans)
        if whole:
            return record | {"boxes": spans.ravel().tolist(), "size": self.sizes[row["example"]]}
        return record | {"rows": spans[:, 0].tolist()}

    def _text(self, row: Mapping[str, Any], spans: NDArray[np.int64]) -> dict[str, Any]:
        """Cuts the text around its tokens, and makes the tokens' places relative to what is left."""
        text = row["text"]
        spans[:, 1] = np.minimum(spans[:, 1], spans[:, 0] + LONGEST_TOKEN)
        own = spans[spans[:, 1] > spans[:, 0]]  # special tokens stand for no letter
        low = max(0, int(own[:, 0].min()) - MARGIN) if len(own) else 0
        high = min(len(text), int(own[:, 1].max()) + MARGIN) if len(own) else min(len(text), MARGIN)
        notes = [note for note in self._notes.get(row["example"], ()) if note[0] < high and note[1] > low]
        return {
            "text": text[low:high],
            "offset": low,
            "length": len(text),
            "spans": _packed(np.clip(spans - low, 0, high - low)),
            "notes": [[max(start, low) - low, min(end, high) - low, concept] for start, end, concept in notes],
            **({"structure": True} if row["example"] in self._structures else {}),
        }


def _packed(spans: NDArray[np.int64]) -> list[int] | int:
    """Packs spans [tokens, 2]: the first start if each token is one letter after the other, else starts and lengths.

    Each start is written as its distance from the end before.
    """
    starts, lengths = spans[:, 0], spans[:, 1] - spans[:, 0]
    if len(spans) and (lengths == 1).all() and (np.diff(starts) == 1).all():
        return int(starts[0])
    return np.column_stack([starts - np.append(0, spans[:-1, 1]), lengths]).ravel().tolist()
