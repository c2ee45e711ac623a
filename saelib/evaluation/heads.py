"""Opens models with the head that predicts tokens, which extractions do without."""

from pathlib import Path
from typing import Any

from saelib.config.sources import AntibertySource, Esm2Source, SourceConfig, TransformersSource
from saelib.errors import UserError
from saelib.evaluation.ce_loss import Predictor

FAMILIES = ("transformers", "antiberty", "esm2")
"""Families whose head is known."""
NEXT_TOKEN, MASKED_TOKEN = ("ForCausalLM", "LMHeadModel"), ("ForMaskedLM", "ForPreTraining")
"""Ends of the names of architectures that predict the next token, or masked ones."""


def open_predictor(config: SourceConfig, device: str, dtype: str) -> Predictor:
    """Loads a model with its head.

    Raises:
        UserError: If the family is not one of `FAMILIES`, or if the checkpoint has no such head.
    """
    if isinstance(config, TransformersSource):
        return _transformers(config, device, dtype)
    if isinstance(config, AntibertySource):
        return _antiberty(config, device, dtype)
    if isinstance(config, Esm2Source):
        return _esm2(config, device, dtype)
    raise UserError(f"family {config.family}: no head that predicts tokens; families with one: {', '.join(FAMILIES)}")


def _transformers(config: TransformersSource, device: str, dtype: str) -> Predictor:
    import transformers

    from saelib.fetch import describe, fetch
    from saelib.sources.base import torch_device, torch_dtype
    from saelib.sources.loading.pretrained import find_blocks, from_pretrained, width
    from saelib.sources.tokens import TokenSource
    from saelib.sources.transformers import TextTokenizer

    name = f"transformers model ({describe(config.weights)})"
    folder = fetch(config.weights)
    masked = _is_masked(config, folder, name)
    options: dict[str, Any] = {"gguf_file": config.gguf_file, "trust_remote_code": config.trust_remote_code}
    loader = transformers.AutoModelForMaskedLM if masked else transformers.AutoModelForCausalLM
    model, info = from_pretrained(loader, name, folder, **options, dtype=torch_dtype(dtype), output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise UserError(f"{name}: the checkpoint has no head that predicts tokens: {', '.join(missing[:3])} is missing")
    tokenizer = from_pretrained(transformers.AutoTokenizer, name, folder, **options)
    if masked and tokenizer.mask_token_id is None:
        raise UserError(f"{name}: its tokenizer has no mask token")
    model.config.use_cache = False
    base = getattr(model, model.base_model_prefix)
    vocabulary = getattr(model.config.get_text_config(), "vocab_size", len(tokenizer))
    pad_id = tokenizer.pad_token_id or 0
    source = TokenSource(
        name,
        config,
        model.to(torch_device(device)),
        find_blocks(base, name),
        TextTokenizer(tokenizer, vocabulary, name, config.special_tokens_in_text),
        d_in=width(model, name),
        pad_id=pad_id if pad_id < vocabulary else 0,
    )
    return Predictor(source, tokenizer.mask_token_id if masked else None)


def _is_masked(config: TransformersSource, folder: Path, name: str) -> bool:
    """Tells by its architecture whether a checkpoint predicts masked tokens. Raises `UserError` if it predicts none."""
    if config.gguf_file:
        return False  # the format has language models only
    from saelib.files.sealed import read_json

    architectures = read_json(folder / "config.json").get("architectures") or []
    for ends, masked in ((NEXT_TOKEN, False), (MASKED_TOKEN, True)):
        if any(str(one).endswith(ends) for one in architectures):
            return masked
    raise UserError(f"{name}: the checkpoint ({', '.join(architectures) or 'no architecture'}) predicts no tokens")


def _antiberty(config: AntibertySource, device: str, dtype: str) -> Predictor:
    import torch
    from transformers import BertConfig, BertForMaskedLM

    from saelib.fetch import fetch
    from saelib.sources.antiberty import CHECKPOINT, open_source

    source = open_source(config, device, dtype)
    folder = fetch(config.weights)
    model: Any = BertForMaskedLM(BertConfig.from_json_file(folder / CHECKPOINT / "config.json"))
    state = torch.load(folder / CHECKPOINT / "pytorch_model.bin", map_location="cpu", weights_only=True)
    missing = [key for key in model.load_state_dict(state, strict=False).missing_keys if "decoder" not in key]
    if missing:
        raise UserError(f"AntiBERTy: the checkpoint has no head that predicts residues: {missing[0]} is missing")
    model.tie_weights()
    parameter = next(source._model.parameters())
    source._model = model.to(parameter.device, parameter.dtype).eval()
    source._blocks = list(model.bert.encoder.layer)
    words = (folder / "vocab.txt").read_text().split()
    return Predictor(source, words.index("[MASK]"))


def _esm2(config: Esm2Source, device: str, dtype: str) -> Predictor:
    from saelib.sources.esm2 import open_source

    source: Any = open_source(config, device, dtype)  # its model has the head
    return Predictor(source, source._model.mask_idx)
