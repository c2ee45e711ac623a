"""Texts of an evaluation as lists of tokens, as other libraries show them: joined, the tokens are the text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saelib.errors import UserError

if TYPE_CHECKING:
    from saelib.evaluation.seen import Seen

SPECIAL = "<special>"
"""A token that stands for no part of the text, such as the one at its beginning."""
PART = "\ufffd"
"""A further token of the same letters, such as one of the bytes of an emoji."""
LONGEST_GAP = 20
"""Characters between two tokens that are given to the second one."""


class Passages:
    """Cuts the texts of an evaluation into tokens."""

    def __init__(self, seen: "Seen") -> None:
        """Opens the texts.

        Raises:
            UserError: If the examples are no texts, or if tokens cannot be traced back to them.
        """
        kinds = seen.examples["kind"].unique().to_list()
        if kinds != ["text"]:
            found = ", ".join(sorted(kinds)) or "no examples"
            raise UserError(f"{seen.folder}: this export is for language models, and these examples are {found}")
        if seen.tokens["start"].null_count():
            raise UserError(f"{seen.folder}: its tokens cannot be traced back to the texts, so none can be exported")
        self._texts = seen.examples["text"].to_list()
        self._spans = seen.tokens.select("start", "end").to_numpy()
        self.first_token = seen.examples["first_token"].to_numpy()
        self.counts = seen.examples["tokens"].to_numpy()

    def tokens(self, example: int, start: int, stop: int) -> list[str]:
        """Returns the tokens `start` to `stop` (exclusive) of an example.

        The blanks that some tokenizers drop between two tokens are given to the second one.
        """
        first = self.first_token[example]
        spans = self._spans[first + start : first + stop]
        before = int(self._spans[first : first + start, 1].max(initial=0)) if start else int(spans[0, 0])
        return split_text(self._texts[example], spans.tolist(), before)


def split_text(text: str, spans: Sequence[Sequence[int]], before: int) -> list[str]:
    """Cuts a text at the spans [start, end) of its tokens; characters up to `before` are those of earlier tokens."""
    found = []
    for start, end in spans:
        if start == end:
            found.append(SPECIAL)
        elif end <= before:
            found.append(PART)
        else:
            found.append(text[max(before, start - LONGEST_GAP) : end])
            before = end
    return found
