"""Models that read rows of tokens: long examples, batching, padding, special tokens, the same for each family."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from saelib.config.sources import TokenModelSource
from saelib.datasets.base import Example
from saelib.errors import UserError
from saelib.sources.base import Activations, check_layers, first_of, input_device, kept_rows, recorded, texts


class Tokens(NamedTuple):
    """One example as the tokenizer gives it, however long."""

    before: list[int]
    """Special tokens that stand before the example's own, and before every part of it."""
    own: list[int]
    after: list[int]
    """Special tokens behind."""
    left_out: frozenset[int] = frozenset()
    """Places in `own` whose tokens the model reads, and whose activations are not returned."""


class Row(NamedTuple):
    """One row of a forward pass: an example, or a part of a long one."""

    example: int
    """Number of the example in its batch."""
    ids: list[int]
    keep: list[bool]
    """True for tokens whose activations are returned."""


class TokenSource:
    """A transformer over tokens, as `saelib.sources.Source`."""

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
        """Take a loaded model.

        Args:
            name: what messages call the model.
            config: its `source` in the suite.
            model: already on its device or devices.
            blocks: its residual blocks, in order.
            tokenize: text -> all its tokens.
            d_in: width of the residual stream.
            pad_id: any token id: padding is masked, and its activations are dropped.
            call: runs the model on ids and attention mask (1: token, 0: padding), both [examples, tokens]; by
                default `model(input_ids=ids, attention_mask=mask)`.
            stream: a block's output or first input -> its residual stream [examples, tokens, d_in].
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
        """See `Source.d_in`."""
        check_layers([layer], self.n_layers, self.name)
        return self._d_in

    def forward(self, examples: Sequence[Example], layers: Sequence[int]) -> Activations:
        """See `Source.forward`. Runs more than one pass where the batch is beyond `batch_tokens`.

        Raises:
            UserError: also where special tokens alone fill `max_length`.
        """
        check_layers(layers, self.n_layers, self.name)
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
        """The rows of one example: one, none (`skip`) or several (`split`)."""
        room = self._config.max_length - len(tokens.before) - len(tokens.after)
        if room < 1:
            raise UserError(f"{self.name}: max_length {self._config.max_length} leaves no room beside special tokens")
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
        """Numbers of the rows of each forward pass."""
        if not rows:
            return
        budget = self._config.batch_tokens
        if budget is None or len(rows) * max(len(row.ids) for row in rows) <= budget:
            yield list(range(len(rows)))
            return
        # Rows of like length share a pass, so that little of the budget goes into padding.
        order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
        group: list[int] = []
        for i in order:
            if group and (len(group) + 1) * len(rows[i].ids) > budget:
                yield group
                group = []
            group.append(i)
        yield group

    def _pass(self, rows: Sequence[Row], layers: Sequence[int]) -> Activations:
        ids, mask, keep = self._pad(rows)
        with torch.inference_mode(), recorded(self._blocks, layers, self.name, self._stream) as stream:
            self._call(ids, mask)
        return kept_rows(stream, keep)

    def _pad(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, attention mask and tokens to return, each [rows, longest]; padding is on the right."""
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
    """Put the rows of several passes back into the order of the examples. No pass gives no layer."""
    counts = [0] * n_rows
    pieces: dict[int, list[np.ndarray]] = {}
    for group, acts in passes:
        bounds = np.cumsum([0, *acts.tokens_per_example])
        for layer, values in acts.layers.items():
            parts = pieces.setdefault(layer, [values[:0]] * n_rows)
            for i, start, end in zip(group, bounds[:-1], bounds[1:], strict=True):
                parts[i] = values[start:end]
        for i, count in zip(group, acts.tokens_per_example, strict=True):
            counts[i] = count
    return Activations({layer: np.concatenate(parts) for layer, parts in pieces.items()}, counts)
