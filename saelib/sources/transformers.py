"""Any text model that transformers' `AutoModel` loads: decoders and encoders, safetensors, `.bin` or GGUF."""

from typing import Any

from transformers import AutoTokenizer

from saelib.config.sources import TransformersSource
from saelib.errors import UserError
from saelib.fetch import describe, fetch
from saelib.sources.pretrained import find_blocks, from_pretrained, load_model, width
from saelib.sources.tokens import Tokens, TokenSource

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
        lambda text: _tokens(tokenizer, text, vocabulary, name),
        d_in=width(model, name),
        pad_id=pad_id if pad_id < vocabulary else 0,  # some tokenizers were given a padding token afterwards
    )


def _tokens(tokenizer: Any, text: str, vocabulary: int, name: str) -> Tokens:
    encoded = tokenizer(text, return_special_tokens_mask=True)
    ids, special = encoded["input_ids"], encoded["special_tokens_mask"]
    if max(ids, default=0) >= vocabulary:
        raise UserError(
            f"{name}: the tokenizer gives token {max(ids)}, but the model has {vocabulary}; are they of one checkpoint?"
        )
    start = next((i for i, flag in enumerate(special) if not flag), len(ids))
    stop = next((i for i in range(len(ids), start, -1) if not special[i - 1]), start)
    return Tokens(ids[:start], ids[start:stop], ids[stop:])


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
