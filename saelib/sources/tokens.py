"""The common part of all models that read tokens: long examples, batching, padding and special tokens."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from saelib.config.sites import Layer
from saelib.config.sources import TokenModelSource
from saelib.datasets.base import Example
from saelib.errors import UserError
from saelib.sources.base import (
    Activations,
    check_layers,
    concatenated,
    first_of,
    input_device,
    kept_rows,
    recorded,
    texts,
)


class Tokens(NamedTuple):
    """All tokens of one example, however long."""

    before: list[int]
    """Special tokens before the example's own tokens, and before each part if it is split."""
    own: list[int]
    """The example's own tokens."""
    after: list[int]
    """Special tokens after the example's own tokens, and after each part if it is split."""
    left_out: frozenset[int] = frozenset()
    """Places in `own` of tokens that the model reads but whose activations are not returned."""


class Row(NamedTuple):
    """One row of a forward pass: an example, or a part of a long one."""

    example: int
    """Number of the example within its batch."""
    ids: list[int]
    keep: list[bool]
    """True for tokens whose activations are returned."""


class TokenSource:
    """A transformer over tokens, as a `saelib.sources.Source`."""

    def __init__(
        self,
        name: str,
        config: TokenModelSource,
        model: torch.nn.Module,
        blocks: Sequence[torch.nn.Module],
        tokenize: Callable[[str], Tokens],
        *,
        d_in: int,
        pad_id: int,
        call: Callable[[torch.Tensor, torch.Tensor], Any] | None = None,
        stream: Callable[[Any], torch.Tensor] = first_of,
    ) -> None:
        """Takes a loaded model.

        Args:
            name: The name of the model in messages.
            config: The `source` of the model in the suite.
            model: The model, already on its device or devices.
            blocks: Its residual blocks, in order.
            tokenize: Returns all tokens of a text.
            d_in: Width of the residual stream.
            pad_id: Any token id: padding is masked, and its activations are dropped.
            call: Runs the model on ids and attention mask (1: token, 0: padding), both [examples, tokens]. The default
                is `model(input_ids=ids, attention_mask=mask)`.
            stream: Turns a block's output or first input into the residual stream [examples, tokens, d_in].
        """
        self.name = name
        self.n_layers = len(blocks)
        self._config = config
        self._model = model.eval()
        self._blocks = blocks
        self._tokenize = tokenize
        self._d_in = d_in
        self._pad_id = pad_id
        self._call = call or (lambda ids, mask: self._model(input_ids=ids, attention_mask=mask))
        self._stream = stream

    def d_in(self, layer: int) -> int:
        """Returns the width of a layer, which is the same for all."""
        check_layers([layer], self.n_layers, self.name)
        return self._d_in

    def forward(self, examples: Sequence[Example], layers: Sequence[Layer]) -> Activations:
        """Runs the model on the examples (see `Source.forward`), in several passes if they exceed `batch_tokens`.

        Raises:
            UserError: also if special tokens alone fill `max_length`.
        """
        check_layers(layers, self.n_layers, self.name, has_sites=True)
        tokens = [self._tokenize(text) for text in texts(examples, self.name)]
        rows = [row for number, one in enumerate(tokens) for row in self._rows(number, one) if row.ids]
        passes = [(group, self._pass([rows[i] for i in group], layers)) for group in self._passes(rows)]
        found = _in_order(passes, len(rows)) if len(passes) != 1 else passes[0][1]
        acts = {layer: found.layers.get(layer, np.empty((0, self._d_in), np.float32)) for layer in layers}
        per_example = [0] * len(examples)
        for row, count in zip(rows, found.tokens_per_example, strict=True):
            per_example[row.example] += count
        return Activations(acts, per_example)

    def _rows(self, number: int, tokens: Tokens) -> Iterator[Row]:
        """Yields the rows of one example: one, none (`long: skip`) or several (`long: split`)."""
        room = self._config.max_length - len(tokens.before) - len(tokens.after)
        if room < 1:
            raise UserError(f"{self.name}: max_length {self._config.max_length} leaves no room after special tokens")
        long = len(tokens.own) > room
        if long and self._config.long == "skip":
            return
        stop = len(tokens.own) if self._config.long == "split" else min(room, len(tokens.own))
        special = self._config.keep_special_tokens
        for start in range(0, max(stop, 1), room):
            own = tokens.own[start : min(start + room, stop)]
            keep = [start + place not in tokens.left_out for place in range(len(own))]
            if own and start == 0 and self._config.drop_first_token:
                keep[0] = False
            ids = [*tokens.before, *own, *tokens.after]
            yield Row(number, ids, [*[special] * len(tokens.before), *keep, *[special] * len(tokens.after)])

    def _passes(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """Yields the numbers of the rows of each forward pass."""
        if not rows:
            return
        budget = self._config.batch_tokens
        if budget is None or len(rows) * max(len(row.ids) for row in rows) <= budget:
            yield list(range(len(rows)))
            return
        # Rows of similar length share a pass, so that little of the budget is spent on padding.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        group: list[int] = []
        for i in order:
            if group and (len(group) + 1) * len(rows[i].ids) > budget:
                yield group
                group = []
            group.append(i)
        yield group

    def _pass(self, rows: Sequence[Row], layers: Sequence[Layer]) -> Activations:
        ids, mask, keep = self._pad(rows)
        with torch.inference_mode(), recorded(self._blocks, layers, self.name, self._stream) as stream:
            self._call(ids, mask)
        return kept_rows(stream, keep)

    def _pad(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Returns ids, attention mask and tokens to keep, each [rows, longest], with padding on the right."""
        shape = (len(rows), max(len(row.ids) for row in rows))
        ids = torch.full(shape, self._pad_id)
        mask = torch.zeros(shape, dtype=torch.long)
        keep = torch.zeros(shape, dtype=torch.bool)
        for i, row in enumerate(rows):
            length = len(row.ids)
            ids[i, :length] = torch.tensor(row.ids, dtype=torch.long)
            mask[i, :length] = 1
            keep[i, :length] = torch.tensor(row.keep, dtype=torch.bool)
        device = input_device(self._model)
        return ids.to(device), mask.to(device), keep.to(device)


def _in_order(passes: Sequence[tuple[list[int], Activations]], n_rows: int) -> Activations:
    """Puts the rows of several passes back into the order of the examples. Without a pass, there are no layers."""
    counts = [0] * n_rows
    pieces: dict[Layer, list[Any]] = {}
    for group, acts in passes:
        bounds = np.cumsum([0, *acts.tokens_per_example])
        for layer, values in acts.layers.items():
            parts = pieces.setdefault(layer, [values[:0]] * n_rows)
            for i, start, end in zip(group, bounds[:-1], bounds[1:], strict=True):
                parts[i] = values[start:end]
        for i, count in zip(group, acts.tokens_per_example, strict=True):
            counts[i] = count
    return Activations({layer: concatenated(parts) for layer, parts in pieces.items()}, counts)
