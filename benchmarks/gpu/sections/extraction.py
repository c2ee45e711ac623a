"""A random language model of SmolLM2-135M's sizes: its forward pass alone, and through saelib's source."""

from collections.abc import Iterator

import numpy as np
import torch

from benchmarks.gpu.card import Card
from benchmarks.gpu.report import Row
from benchmarks.gpu.sections.waits import count_waits
from saelib.config.sources import TransformersSource
from saelib.datasets.base import Example
from saelib.sources.base import torch_dtype
from saelib.sources.precision import exact_float32
from saelib.sources.tokens import Tokens, TokenSource

FULL = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "vocab_size": 49_152,
}
TINY = FULL | {"hidden_size": 36, "intermediate_size": 64, "num_hidden_layers": 3, "vocab_size": 256}
ERROR = "worst error"
BOUNDS = {ERROR: 1e-4}


def rows(card: Card) -> Iterator[Row]:
    """The error of every layer against float64 on a CPU, then times of a batch with all layers."""
    yield Row("float32 against float64", {ERROR: _error(card)}, BOUNDS)
    batch, length = card.either((64, 512), (2, 16))
    for dtype in ("float32", "bfloat16"):
        yield Row(f"{batch} texts of {length} tokens, {dtype}", _times(card, dtype, batch, length))
        card.free()


def _error(card: Card) -> float:
    """The largest over the layers, relative to the layer's values."""
    examples = _examples(2)
    with exact_float32():
        found = _source(card, _model(card).to(card.device), 32).forward(examples, _layers(card)).layers
    # In float64 `Source.forward` still gives float32, whose rounding is a share of the bound.
    wanted = _source(card, _model(card).double(), 32).forward(examples, _layers(card)).layers
    errors = [np.linalg.norm(found[i] - wanted[i]) / np.linalg.norm(wanted[i]) for i in _layers(card)]
    return float(max(errors))


@exact_float32()
def _times(card: Card, dtype: str, batch: int, length: int) -> dict[str, float | int]:
    model = _model(card).to(card.device, torch_dtype(dtype))
    ids = torch.zeros(batch, length, dtype=torch.long, device=card.device)
    source, examples, layers = _source(card, model, length), _examples(batch), _layers(card)
    with torch.inference_mode():
        bare = card.median_ms(lambda: model(input_ids=ids), 5)
    through = card.median_ms(lambda: source.forward(examples, layers), 3)
    tokens = batch * length
    figures: dict[str, float | int] = {
        "forward pass, ms": bare,
        "through the source, ms": through,
        "x forward pass": through / bare,
        "M tokens/s": tokens / through / 1e3,
    }
    if card.on_gpu:
        figures["waits for the host"] = len(count_waits(lambda: source.forward(examples, layers)))
    return figures


def _model(card: Card) -> torch.nn.Module:
    from transformers import LlamaConfig, LlamaModel

    torch.manual_seed(0)
    return LlamaModel(LlamaConfig.from_dict(card.either(FULL, TINY) | {"use_cache": False})).eval()


def _source(card: Card, model: torch.nn.Module, length: int) -> TokenSource:
    size = card.either(FULL, TINY)
    config = TransformersSource.model_validate(
        {"family": "transformers", "weights": {"path": "."}, "max_length": length}
    )

    def tokenize(text: str) -> Tokens:
        ids = np.random.default_rng(int(text)).integers(0, size["vocab_size"], length)
        return Tokens([], ids.tolist(), [])

    blocks = list(model.get_submodule("layers").children())
    return TokenSource("random", config, model, blocks, tokenize, d_in=size["hidden_size"], pad_id=0)


def _examples(count: int) -> list[Example]:
    return [Example(str(i), str(i), str(i)) for i in range(count)]


def _layers(card: Card) -> list[int]:
    return list(range(1, card.either(FULL, TINY)["num_hidden_layers"] + 1))
