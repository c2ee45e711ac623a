"""Finds what each token of a model stands for: characters of a text, letters of a sequence, a box of pixels.

Only evaluations need this, so it is apart from the sources: extractions neither pay for it nor depend on its code.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from saelib.config import SourceConfig
from saelib.datasets.base import Example
from saelib.errors import UserError
from saelib.sources.base import Source

Spans = NDArray[np.int32]
"""[tokens, 2]: start and end (exclusive) in the example's text; or, for images, [tokens, 4]: x0, y0, x1, y1 in pixels.
A special token of a text has an empty span, and one of an image spans the whole picture."""

LETTER_FAMILIES = ("antiberty", "esm2", "esm3", "progen2", "glm2", "evo")
"""Families with one token per letter of the sequence."""


def find_spans(config: SourceConfig, source: Source, examples: Sequence[Example], counts: Sequence[int]) -> list[Spans]:
    """Finds the span of every token that a forward pass keeps, example by example.

    Args:
        config: The options of the model's family.
        source: The opened model.
        examples: The examples of a pass.
        counts: Their `tokens_per_example` in the result of `source.forward`.

    Raises:
        UserError: If the family cannot tell what its tokens stand for, or if the spans are not one for each token.
    """
    found = _finder(config, source)(examples, counts)
    for example, spans, count in zip(examples, found, counts, strict=True):
        if len(spans) != count:
            raise UserError(
                f"{config.family}: example '{example.id}' has {count} tokens but {len(spans)} spans, so its latents "
                "cannot be traced back to it"
            )
    return found


def _finder(config: SourceConfig, source: Any) -> Callable[[Sequence[Example], Sequence[int]], list[Spans]]:
    """Returns the function that finds a family's spans. Raises `UserError` if there is none."""
    family = config.family
    if family == "transformers":
        return lambda examples, counts: [_of_tokens(source, one, _offsets) for one in examples]
    if family in LETTER_FAMILIES:
        backwards = bool(getattr(config, "reverse", False))
        return lambda examples, counts: [_of_tokens(source, one, _letters(backwards)) for one in examples]
    if family == "spliceai":
        return lambda examples, counts: [_without_context(source, one) for one in examples]
    if family == "transformers_vision":
        return lambda examples, counts: _boxes(examples, counts, source._patch)
    if family == "dinov2_onnx":
        side = source.model.config.patch_size
        return lambda examples, counts: _boxes(examples, counts, (side, side))
    own = getattr(getattr(source, "_source", None), "spans", None)
    if family == "plugin" and callable(own):
        return lambda examples, counts: [np.asarray(one, np.int32) for one in _sequence(own(examples))]
    advice = "; give the plug-in a method spans(examples) (docs/plugins.md)" if family == "plugin" else ""
    raise UserError(f"family {family}: cannot tell which part of an example a token stands for{advice}")


def _of_tokens(source: Any, example: Example, offsets: Callable[[Any, str, Any], Spans]) -> Spans:
    """Finds the spans of the tokens that a `TokenSource` keeps of an example."""
    text = str(example.content)
    tokens = source._tokenize(text)
    table = offsets(source, text, tokens)
    if len(table) != len(tokens.own):
        raise UserError(f"{source.name}: example '{example.id}' has {len(tokens.own)} tokens and {len(table)} spans")
    # The source splits, cuts and drops places of tokens just as it does tokens. The last two spans are empty, at the
    # beginning and the end of the text: they belong to special tokens.
    table = np.concatenate([table, [[0, 0], [len(text), len(text)]]]).astype(np.int32)
    own = list(range(len(tokens.own)))
    places = tokens._replace(before=[len(own)] * len(tokens.before), own=own, after=[len(own) + 1] * len(tokens.after))
    rows = source._rows(0, places)
    return table[[place for row in rows for place, keep in zip(row.ids, row.keep, strict=True) if keep]]


def _letters(backwards: bool) -> Callable[[Any, str, Any], Spans]:
    """Returns a function for the spans of letters, for models that read letters or bytes; `backwards` if last first."""

    def spans(source: Any, text: str, tokens: Any) -> Spans:
        sizes = [len(letter.encode()) for letter in text] if len(tokens.own) != len(text) else [1] * len(text)
        places = np.repeat(np.arange(len(text), dtype=np.int32), sizes)[:: -1 if backwards else 1]
        return np.stack([places, places + 1], axis=1)

    return spans


def _offsets(source: Any, text: str, tokens: Any) -> Spans:
    """Finds the characters of a text's own tokens by the offsets of its tokenizer."""
    tokenizer = source._tokenize._tokenizer
    if not tokenizer.is_fast:
        raise UserError(
            f"{source.name}: its tokenizer is one without offsets (a slow one), so tokens cannot be traced back to "
            "their characters"
        )
    wanted = [*tokens.before, *tokens.own, *tokens.after]
    for options in ({}, {"split_special_tokens": True}):  # the source reads special tokens in a text as text
        encoded = tokenizer(text, return_offsets_mapping=True, verbose=False, **options)
        if encoded["input_ids"] == wanted:
            first = len(tokens.before)
            found = encoded["offset_mapping"][first : first + len(tokens.own)]
            return np.array(found, np.int32).reshape(-1, 2)
    raise UserError(f"{source.name}: its tokenizer returns other tokens when it is asked for their offsets")


def _without_context(source: Any, example: Example) -> Spans:
    """Finds the nucleotides that SpliceAI records: all but its context at both ends."""
    before, after = source.context
    places = np.arange(before, len(str(example.content)) - after, dtype=np.int32)
    return np.stack([places, places + 1], axis=1)


def _boxes(examples: Sequence[Example], counts: Sequence[int], patch: tuple[int, int]) -> list[Spans]:
    """Finds the boxes of patches, row by row; special tokens come first and span the whole picture."""
    rows, columns = patch
    found = []
    for example, count in zip(examples, counts, strict=True):
        height, width = np.asarray(example.content).shape[:2]
        y, x = np.mgrid[0:height:rows, 0:width:columns].reshape(2, -1)
        patches = np.stack([x, y, x + columns, y + rows], axis=1)
        whole = np.tile([0, 0, width, height], (max(0, count - len(patches)), 1))
        found.append(np.concatenate([whole, patches]).astype(np.int32))
    return found


def _sequence(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise UserError(f"plugin: spans returns a {type(value).__name__}, and should return an array for each example")
    return list(value)
