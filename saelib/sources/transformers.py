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
"""Names for the number of positions in models' configs; the second is MPT's."""


def open_source(config: TransformersSource, device: str, dtype: str) -> TokenSource:
    """Loads model and tokenizer.

    Pickled objects are never built, and code from the checkpoint runs only if the config asks for it.

    Raises:
        UserError: if the files are not a complete checkpoint, its architecture is unknown, or `config.max_length`
            exceeds the model's limit.
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
        model.config.rescale_every = 0  # RWKV would halve its stream every few blocks, against overflow of float16
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", len(tokenizer))
    pad_id = tokenizer.pad_token_id or 0
    return TokenSource(
        name,
        config,
        model,
        blocks,
        TextTokenizer(tokenizer, vocabulary, name, config.special_tokens_in_text),
        d_in=width(model, name),
        pad_id=pad_id if pad_id < vocabulary else 0,  # a padding token may have been added after training
    )


class TextTokenizer:
    """Splits text into tokens by the checkpoint's tokenizer, also text that contains special tokens such as `</s>`.

    Such tokens are counted, and the log says how many there are at the first, the tenth, the hundredth, ...
    """

    def __init__(self, tokenizer: Any, vocabulary: int, name: str, in_text: str) -> None:
        """Takes a loaded tokenizer.

        Args:
            tokenizer: The checkpoint's tokenizer.
            vocabulary: Number of tokens that the model has.
            name: The name of the model in messages.
            in_text: See `TransformersSource.special_tokens_in_text`.
        """
        self._tokenizer, self._vocabulary, self._name, self._in_text = tokenizer, vocabulary, name, in_text
        added = getattr(tokenizer, "added_tokens_decoder", {})
        self._special = {*tokenizer.all_special_ids, *(number for number, token in added.items() if token.special)}
        self.spelled = 0
        """Number of special tokens found in the texts so far."""

    def __call__(self, text: str) -> Tokens:
        """Returns all tokens of the text. Raises `UserError` for a token that the model does not have."""
        found = self._encode(text)
        # The unknown token also stands for any text that the vocabulary lacks: it counts only if the text contains it.
        unknown = self._tokenizer.unk_token_id
        spelled = self._places(found, but=() if (self._tokenizer.unk_token or "") in text else (unknown,))
        if not spelled:
            return found
        self._count(len(spelled), found.own[min(spelled)])
        if self._in_text == "keep":
            return found
        if self._in_text == "as_text":
            as_text = self._encode(text, split_special_tokens=True)
            # Some tokenizers have no other tokens for these letters, or can then no longer read the rest.
            if len(as_text.own) >= len(found.own) and not self._places(as_text, but=(unknown,)):
                return as_text
        return found._replace(left_out=spelled)

    def _encode(self, text: str, **options: bool) -> Tokens:
        # Not verbose, because text that is too long for the model is cut, split or refused later.
        encoded = self._tokenizer(text, return_special_tokens_mask=True, verbose=False, **options)
        ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
        if max(ids, default=0) >= self._vocabulary:
            raise UserError(
                f"{self._name}: the tokenizer returns token {max(ids)}, but the model has {self._vocabulary} tokens; "
                "are they from the same checkpoint?"
            )
        if not self._tokenizer.is_fast and (len(special) != len(ids) or not any(special)):
            # Tokenizers written in Python may add tokens without marking them in the mask.
            special = self._added(ids, self._tokenizer(text, add_special_tokens=False, **options)["input_ids"])
        start = next((i for i, flag in enumerate(special) if not flag), len(ids))
        stop = next((i for i in range(len(ids), start, -1) if not special[i - 1]), start)
        return Tokens(ids[:start], ids[start:stop], ids[stop:])

    def _added(self, ids: list[int], own: list[int]) -> list[int]:
        """Returns 1 for each of `ids` that comes before or after the text's own tokens, and 0 for these."""
        more = len(ids) - len(own)
        for start in range(more + 1):
            if ids[start : start + len(own)] == own:
                return [1] * start + [0] * len(own) + [1] * (more - start)
        raise UserError(
            f"{self._name}: the tokenizer adds special tokens that cannot be told apart from the text's own tokens"
        )

    def _places(self, tokens: Tokens, but: Sequence[int | None]) -> frozenset[int]:
        """Returns the places of special tokens among the text's own tokens, ignoring those in `but`."""
        special = self._special.difference(but)
        return frozenset(place for place, number in enumerate(tokens.own) if number in special)

    def _count(self, more: int, first: int) -> None:
        before, self.spelled = self.spelled, self.spelled + more
        if len(str(self.spelled)) > len(str(before)) or not before:
            log.warning(
                "%s: its texts contain %d special tokens so far, the latest is %s (special_tokens_in_text: %s)",
                self._name, self.spelled, self._tokenizer.convert_ids_to_tokens(first), self._in_text,
            )  # fmt: skip


def _check_length(max_length: int, model: Any, tokenizer: Any, name: str) -> None:
    """Raises `UserError` if `max_length` exceeds the model's limit, beyond which some models run without an error."""
    text_config = model.config.get_text_config()
    limits = [getattr(text_config, key, None) for key in LIMITS]
    limit = min([tokenizer.model_max_length, *(value for value in limits if value and value > 0)])  # -1: no limit
    for module_name, module in model.named_modules():
        # RoBERTa and its relatives number positions from padding_idx + 1 on, so they have fewer positions than rows.
        padding = getattr(module, "padding_idx", None)
        if module_name.endswith("position_embeddings") and padding is not None:
            limit = min(limit, module.num_embeddings - padding - 1)
    if max_length > limit:
        raise UserError(f"{name}: max_length is {max_length}, but the model reads at most {limit} tokens")
