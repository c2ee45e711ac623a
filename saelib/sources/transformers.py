"""Any text model that transformers' `AutoModel` loads: decoders and encoders, safetensors, `.bin` or GGUF."""

import logging
from collections.abc import Sequence
from typing import Any

from transformers import AutoTokenizer

from saelib.config.sources import TransformersSource
from saelib.errors import UserError
from saelib.fetch import describe, fetch
from saelib.sources.loading.pretrained import find_blocks, from_pretrained, load_model, width
from saelib.sources.tokens import Tokens, TokenSource

log = logging.getLogger(__name__)

LIMITS = ("max_position_embeddings", "max_seq_len")
"""What configs call the number of positions; the second is MPT's."""


def open_source(config: TransformersSource, device: str, dtype: str) -> TokenSource:
    """Load model and tokenizer. Pickled objects are never built, and code from the checkpoint runs only if asked for.

    Raises:
        UserError: where the files are not a whole checkpoint, its architecture is unknown, or its texts are shorter
            than `config.max_length`.
    """
    name = f"transformers model ({describe(config.weights)})"
    folder = fetch(config.weights)
    options: dict[str, Any] = {"gguf_file": config.gguf_file, "trust_remote_code": config.trust_remote_code}
    model = load_model(name, folder, device, dtype, device_map=config.device_map, **options)
    tokenizer = from_pretrained(AutoTokenizer, name, folder, **options)
    blocks = find_blocks(model, name)
    _check_length(config.max_length, model, tokenizer, name)
    model.config.use_cache = False
    if hasattr(model.config, "rescale_every"):
        model.config.rescale_every = 0  # RWKV halves its stream every few blocks, against overflow of float16
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", len(tokenizer))
    pad_id = tokenizer.pad_token_id or 0
    return TokenSource(
        name,
        config,
        model,
        blocks,
        TextTokenizer(tokenizer, vocabulary, name, config.special_tokens_in_text),
        d_in=width(model, name),
        pad_id=pad_id if pad_id < vocabulary else 0,  # some tokenizers were given a padding token afterwards
    )


class TextTokenizer:
    """A text's tokens as the checkpoint's tokenizer gives them, whatever special tokens the text may spell itself.

    Such tokens are counted; the log says how many at the first, the tenth, the hundredth, ...
    """

    def __init__(self, tokenizer: Any, vocabulary: int, name: str, in_text: str) -> None:
        """`vocabulary`: tokens that the model has; `in_text`: see `TransformersSource.special_tokens_in_text`."""
        self._tokenizer, self._vocabulary, self._name, self._in_text = tokenizer, vocabulary, name, in_text
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}
        self.spelled = 0
        """Special tokens that the texts have spelled so far."""

    def __call__(self, text: str) -> Tokens:
        """All tokens of the text. Raises `UserError` for a token that the model does not have."""
        found = self._encode(text)
        # The token for what the vocabulary lacks stands for other text, too: it counts where the text may spell it.
        unknown = self._tokenizer.unk_token_id
        spelled = self._places(found, but=() if (self._tokenizer.unk_token or "") in text else (unknown,))
        if not spelled:
            return found
        self._count(len(spelled), found.own[min(spelled)])
        if self._in_text == "keep":
            return found
        if self._in_text == "as_text":
            as_text = self._encode(text, split_special_tokens=True)
            # Some tokenizers know no other spelling of these letters, or then cannot read the rest.
            if len(as_text.own) >= len(found.own) and not self._places(as_text, but=(unknown,)):
                return as_text
        return found._replace(left_out=spelled)

    def _encode(self, text: str, **options: bool) -> Tokens:
        # Quietly: what is longer than the model takes is cut, split or refused later, and not run as it is.
        encoded = self._tokenizer(text, return_special_tokens_mask=True, verbose=False, **options)
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
        if max(ids, default=0) >= self._vocabulary:
            raise UserError(
                f"{self._name}: the tokenizer gives token {max(ids)}, but the model has {self._vocabulary}; are they "
                "of one checkpoint?"
            )
        if not self._tokenizer.is_fast and (len(special) != len(ids) or not any(special)):
            # Tokenizers written in Python may add tokens and not say which.
            special = self._added(ids, self._tokenizer(text, add_special_tokens=False, **options)["input_ids"])
        start = next((i for i, flag in enumerate(special) if not flag), len(ids))
        stop = next((i for i in range(len(ids), start, -1) if not special[i - 1]), start)
        return Tokens(ids[:start], ids[start:stop], ids[stop:])

    def _added(self, ids: list[int], own: list[int]) -> list[int]:
        """1 for each of `ids` that stands before or behind a text's own."""
        more = len(ids) - len(own)
        for start in range(more + 1):
            if ids[start : start + len(own)] == own:
                return [1] * start + [0] * len(own) + [1] * (more - start)
        raise UserError(f"{self._name}: the tokenizer does not tell the special tokens it adds from a text's own")

    def _places(self, tokens: Tokens, but: Sequence[int | None]) -> frozenset[int]:
        """Where special tokens stand among a text's own, but for those."""
        special = self._special.difference(but)
        return frozenset(place for place, number in enumerate(tokens.own) if number in special)

    def _count(self, more: int, first: int) -> None:
        before, self.spelled = self.spelled, self.spelled + more
        if len(str(self.spelled)) > len(str(before)) or not before:
            log.warning(
                "%s: its texts have spelled %d special tokens so far, just now %s (special_tokens_in_text: %s)",
                self._name, self.spelled, self._tokenizer.convert_ids_to_tokens(first), self._in_text,
            )  # fmt: skip


def _check_length(max_length: int, model: Any, tokenizer: Any, name: str) -> None:
    """Some models run past the positions they were trained on without an error."""
    text_config = model.config.get_text_config()
    limits = [getattr(text_config, key, None) for key in LIMITS]
    limit = min([tokenizer.model_max_length, *(value for value in limits if value and value > 0)])  # -1: no limit
    for module_name, module in model.named_modules():
        # RoBERTa and its kin count positions from behind the padding's, and so have fewer than rows.
        padding = getattr(module, "padding_idx", None)
        if module_name.endswith("position_embeddings") and padding is not None:
            limit = min(limit, module.num_embeddings - padding - 1)
    if max_length > limit:
        raise UserError(f"{name}: max_length is {max_length}, but the model reads at most {limit} tokens")
