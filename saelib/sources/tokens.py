"""Models that read a row of tokens: batching, padding and dropping of special tokens, the same for each family."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from saelib.datasets.base import Example
from saelib.sources.base import Activations, check_layers, kept_rows, recorded, texts


class Tokens(NamedTuple):
    """One example as the model reads it."""

    ids: list[int]
    special: list[bool]
    """True for tokens that the tokenizer added around the text."""


class TokenSource:
    """A transformer over tokens, as `saelib.sources.Source`."""

    def __init__(
        self,
        name: str,
        model: torch.nn.Module,
        blocks: Sequence[torch.nn.Module],
        tokenize: Callable[[str], Tokens],
        *,
        d_in: int,
        pad_id: int,
        keep_special_tokens: bool,
    ) -> None:
        """Take a loaded model.

        Args:
            name: what messages call the model.
            model: called with `input_ids` and `attention_mask`, both [examples, tokens]; already on its device.
            blocks: its residual blocks, in order.
            tokenize: text -> tokens, already cut to the model's length.
            d_in: width of the residual stream.
            pad_id: any token id: padding is masked, and its activations are dropped.
            keep_special_tokens: whether tokens that the tokenizer adds are returned too.
        """
        self.name = name
        self.n_layers = len(blocks)
        self._model = model.eval()
        self._blocks = blocks
        self._tokenize = tokenize
        self._d_in = d_in
        self._pad_id = pad_id
        self._keep_special_tokens = keep_special_tokens

    def d_in(self, layer: int) -> int:
        """See `Source.d_in`."""
        check_layers([layer], self.n_layers, self.name)
        return self._d_in

    def forward(self, examples: Sequence[Example], layers: Sequence[int]) -> Activations:
        """See `Source.forward`."""
        check_layers(layers, self.n_layers, self.name)
        ids, mask, keep = self._pad([self._tokenize(text) for text in texts(examples, self.name)])
        with torch.inference_mode(), recorded(self._blocks, layers) as stream:
            self._model(input_ids=ids, attention_mask=mask)
        return kept_rows(stream, keep)

    def _pad(self, rows: Sequence[Tokens]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Ids, attention mask and tokens to return, each [examples, longest]; padding is on the right."""
        shape = (len(rows), max(1, *(len(row.ids) for row in rows)))
        ids = torch.full(shape, self._pad_id)
        mask = torch.zeros(shape, dtype=torch.long)
        keep = torch.zeros(shape, dtype=torch.bool)
        for i, row in enumerate(rows):
            length = len(row.ids)
            ids[i, :length] = torch.tensor(row.ids, dtype=torch.long)
            mask[i, :length] = 1
            keep[i, :length] = torch.tensor([self._keep_special_tokens or not special for special in row.special])
        device = next(self._model.parameters()).device
        return ids.to(device), mask.to(device), keep.to(device)
