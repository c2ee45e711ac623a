"""Small text checkpoints, saved as their trainers would save them, and opened as real ones are."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from saelib.config.files import LocalFiles
from saelib.config.sources import TransformersSource
from saelib.datasets import Example
from saelib.sources import open_source
from saelib.sources.precision import exact_float32

torch.set_num_threads(2)

TEXTS = ["the cat sat on a mat", "two dogs run", "and the cat saw two dogs run far away from home"]
WORDS = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", *TEXTS[2].split(), "sat", "on", "a", "mat"]


def _save_tokenizer(folder: Path, *, bos: bool = False, wrapped: bool = False) -> None:
    """One token a word; `bos` puts [CLS] in front, `wrapped` [SEP] behind too."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    if bos or wrapped:
        template = "[CLS] $A [SEP]" if wrapped else "[CLS] $A"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
        )
    # Decoders come without a padding token.
    options = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"} if wrapped else {}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", **options).save_pretrained(folder)


def _randomize(model: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough to matter, those of norms and biases among them, so that nothing left out goes unseen."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def _examples(*texts: str) -> list[Example]:
    return [Example(str(i), str(i), text) for i, text in enumerate(texts)]


def _open_text(folder: Path, dtype: str = "float32", device: str = "cpu", **options):
    options = {"max_length": 32, "keep_special_tokens": True, **options}
    return open_source(
        TransformersSource(family="transformers", weights=LocalFiles(path=folder), **options), device, dtype
    )


@pytest.fixture
def device(device: str) -> Iterator[str]:
    """Each device, with the exact float32 in which an extraction runs a source."""
    with exact_float32():
        yield device


@pytest.fixture(scope="session")
def sentences():
    return TEXTS


@pytest.fixture(scope="session")
def vocab_size():
    return len(WORDS)


@pytest.fixture(scope="session")
def save_tokenizer():
    return _save_tokenizer


@pytest.fixture(scope="session")
def randomize():
    return _randomize


@pytest.fixture(scope="session")
def examples():
    return _examples


@pytest.fixture(scope="session")
def open_text():
    return _open_text
