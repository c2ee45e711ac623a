"""Each kept token is traced back to what it stands for: the activations of layer 0 say which letter or word it was."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from saelib.config.files import LocalFiles
from saelib.config.sources import TokenModelSource, TransformersVisionSource
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources import open_source
from saelib.sources.spans import find_spans
from saelib.sources.tokens import Tokens, TokenSource


class Toy(torch.nn.Module):
    """Layer 0 is one-hot in the token's id."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding.from_pretrained(torch.eye(256))
        self.block = torch.nn.Identity()

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
        self.block(self.embed(input_ids))


def toy(tokenize, **options) -> TokenSource:
    model = Toy()
    config = TokenModelSource(**{"max_length": 10, **options})
    return TokenSource("toy", config, model, [model.block], tokenize, d_in=256, pad_id=255)


def spans_of(family: str, source: Any, texts: list[str], **options: Any) -> tuple[list[np.ndarray], list[int]]:
    """The spans of each text, and the id of each token that was kept."""
    examples = [Example(str(i), str(i), text) for i, text in enumerate(texts)]
    acts = source.forward(examples, [0])
    config: Any = SimpleNamespace(family=family, **options)
    return find_spans(config, source, examples, acts.tokens_per_example), list(acts.layers[0].argmax(axis=1))


def letters(text: str) -> Tokens:
    return Tokens([200], [ord(letter) for letter in text], [201])


def backwards(text: str) -> Tokens:
    return letters(text[::-1])


OPTIONS = [{}, {"long": "split"}, {"long": "skip"}, {"drop_first_token": True}, {"max_length": 5, "long": "split"}]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("tokenize", "reverse"), [(letters, False), (backwards, True)])
def test_residues_line_up(options, tokenize, reverse):
    texts = ["MKVLA", "A", "", "ACDEFGHIKLMNPQRSTVWY", "GGG"]
    spans, ids = spans_of("progen2", toy(tokenize, **options), texts, reverse=reverse)
    found = [text[start:end] for text, own in zip(texts, spans, strict=True) for start, end in own]
    assert found == [chr(number) for number in ids]


def test_a_token_that_is_left_out_has_no_span():
    source = toy(lambda text: letters(text)._replace(left_out=frozenset([2])))
    (spans,), _ = spans_of("esm3", source, ["AC|DE"])
    assert spans[:, 0].tolist() == [0, 1, 3, 4]


def test_special_tokens_that_are_kept_have_empty_spans():
    (spans,), ids = spans_of("antiberty", toy(letters, keep_special_tokens=True), ["MKV"])
    assert ids[0] == 200
    assert ids[-1] == 201
    assert spans.tolist() == [[0, 0], [0, 1], [1, 2], [2, 3], [3, 3]]


def test_bytes_of_one_letter_share_its_span():
    source = toy(lambda text: Tokens([], list(text.encode()), []))
    (spans,), ids = spans_of("evo", source, ["aéb"])
    assert bytes(ids) == "aéb".encode()
    assert spans.tolist() == [[0, 1], [1, 2], [1, 2], [2, 3]]


@pytest.mark.parametrize("options", [{}, {"max_length": 4, "long": "split"}, {"keep_special_tokens": False}])
def test_text_between_start_and_end_is_the_token(
    tmp_path, save_tokenizer, randomize, open_text, sentences, vocab_size, options
):
    config = LlamaConfig(
        vocab_size=vocab_size, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=48
    )
    model: Any = randomize(LlamaForCausalLM(config))
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path, bos=True)
    source = open_text(tmp_path, **options)
    texts = [f"  {sentences[0]} ", sentences[2].replace(" ", "   ")]
    examples = [Example(text, text, text) for text in texts]
    acts = source.forward(examples, [0])
    spans = find_spans(source._config, source, examples, acts.tokens_per_example)
    words = [text[start:end] for text, own in zip(texts, spans, strict=True) for start, end in own]
    table = model.model.embed_tokens.weight.detach().numpy()
    ids = [int(np.abs(table - row).sum(axis=1).argmin()) for row in acts.layers[0]]
    vocabulary = source._tokenize._tokenizer.get_vocab()
    assert [number for number, word in zip(ids, words, strict=True) if word] == [vocabulary[w] for w in words if w]
    assert all(number == vocabulary["[CLS]"] for number, word in zip(ids, words, strict=True) if not word)
    assert [word for word in words if word] == " ".join(texts).split()


@pytest.mark.parametrize("keep", [False, True])
def test_boxes_tile_the_picture(tmp_path, keep):
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, mlp_ratio=1, image_size=16, patch_size=4
    )
    Dinov2Model(config).save_pretrained(tmp_path)
    weights = LocalFiles(path=tmp_path)
    options = TransformersVisionSource(family="transformers_vision", weights=weights, keep_special_tokens=keep)
    source = open_source(options)
    examples = [Example("a", "a", np.zeros((8, 16, 3), np.uint8))]
    counts = source.forward(examples, [1]).tokens_per_example
    (boxes,) = find_spans(options, source, examples, counts)
    assert len(boxes) == 8 + keep
    assert boxes[:keep].tolist() == [[0, 0, 16, 8]] * keep
    covered = np.zeros((8, 16), int)
    for x0, y0, x1, y1 in boxes[keep:]:
        covered[y0:y1, x0:x1] += 1
    assert (covered == 1).all()
    assert boxes[keep:][:5, :2].tolist() == [[0, 0], [4, 0], [8, 0], [12, 0], [0, 4]]  # row by row


def test_spliceai_leaves_its_context_out():
    source = SimpleNamespace(context=(2, 3))
    config: Any = SimpleNamespace(family="spliceai")
    (spans,) = find_spans(config, source, [Example("w", "w", "ACGTACGTAC")], [5])  # pyright: ignore[reportArgumentType]
    assert spans.tolist() == [[2, 3], [3, 4], [4, 5], [5, 6], [6, 7]]


def test_a_plugin_may_give_spans():
    own = SimpleNamespace(spans=lambda examples: [[[0, 3]] for _ in examples])
    config: Any = SimpleNamespace(family="plugin")
    source: Any = SimpleNamespace(_source=own)
    (spans,) = find_spans(config, source, [Example("a", "a", "abc")], [1])
    assert spans.tolist() == [[0, 3]]
    with pytest.raises(UserError, match="example 'a' has 2 tokens but 1 spans"):
        find_spans(config, source, [Example("a", "a", "abc")], [2])


@pytest.mark.parametrize("family", ["module", "stable_diffusion_3", "alphafold3"])
def test_families_that_cannot_tell_say_so(family):
    config: Any = SimpleNamespace(family=family)
    source: Any = SimpleNamespace()
    with pytest.raises(UserError, match=f"family {family}: cannot tell which part of an example"):
        find_spans(config, source, [Example("a", "a", "abc")], [1])
