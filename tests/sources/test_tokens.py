"""Laws of every model over tokens, on a toy whose activations tell what it saw."""

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

from saelib.config.sources import TokenModelSource
from saelib.datasets import Example
from saelib.errors import UserError
from saelib.sources.tokens import Tokens, TokenSource

torch.set_num_threads(2)

BEFORE, AFTER, PAD = 30, 31, 32
WIDTH = 4
ALPHABET = "abcdefghijklmnopqrstuvwxyz"


class Block(torch.nn.Module):
    """Adds to each token the mean over the row's tokens, padding left out: each depends on all, and on their number."""

    def forward(self, stream: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, None]:
        weights = mask.to(stream.dtype)[..., None]
        mean = (stream * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp(min=1)
        return stream + torch.tanh(mean), None


class Toy(torch.nn.Module):
    """Embeddings and two blocks. Remembers the shape of every batch it was given."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Embedding(33, WIDTH)
        self.blocks = torch.nn.ModuleList([Block(), Block()])
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
        self.shapes.append(tuple(input_ids.shape))
        stream = self.embed(input_ids)
        for block in self.blocks:
            stream, _ = block(stream, attention_mask)


def tokenize(text: str) -> Tokens:
    return Tokens([BEFORE], [ALPHABET.index(letter) for letter in text], [AFTER])


def opened(tokenize=tokenize, **options) -> tuple[TokenSource, Toy]:
    model = Toy()
    options = {"max_length": 10, **options}
    source = TokenSource(
        "toy", TokenModelSource(**options), model, list(model.blocks), tokenize, d_in=WIDTH, pad_id=PAD
    )
    return source, model


def examples(*texts: str) -> list[Example]:
    return [Example(str(i), str(i), text) for i, text in enumerate(texts)]


def expected(letters: str, layer: int, kept: slice = slice(1, -1)) -> np.ndarray:
    """One row of the toy alone, special tokens around it, in float64 and without a torch module."""
    table = Toy().embed.weight.detach().numpy().astype(np.float64)
    stream = table[[BEFORE, *(ALPHABET.index(letter) for letter in letters), AFTER]]
    for _ in range(layer):
        stream = stream + np.tanh(stream.mean(axis=0))
    return stream[kept]


def check(acts, layer: int, rows: list[np.ndarray]) -> None:
    np.testing.assert_allclose(acts.layers[layer], np.concatenate(rows), atol=1e-6)
    assert acts.layers[layer].dtype == np.float32


TEXTS = ["abc", "z", "hello", "qrstuv", "", "xyzzy"]


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_each_example_is_as_if_it_were_alone(layer):
    source, model = opened()
    acts = source.forward(examples(*TEXTS), [layer])
    assert acts.tokens_per_example == [3, 1, 5, 6, 0, 5]
    check(acts, layer, [expected(text, layer) for text in TEXTS])
    assert model.shapes == [(6, 8)]


def test_all_layers_come_from_one_pass_and_none_from_elsewhere():
    source, model = opened()
    acts = source.forward(examples(*TEXTS), [2, 0, 1])
    assert len(model.shapes) == 1
    for layer in range(3):
        check(acts, layer, [expected(text, layer) for text in TEXTS])
    assert (source.n_layers, source.d_in(2)) == (2, WIDTH)
    for layer in (-1, 3):
        with pytest.raises(UserError, match=f"toy: has no layer {layer}; its layers are 0 to 2"):
            source.forward(examples("abc"), [layer])
        with pytest.raises(UserError, match="toy: has no layer"):
            source.d_in(layer)


class Strange(Toy):
    """The toy, with a forward pass that hooks do not see as one run a block."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way = way
        if way == "shared":
            self.blocks[1] = self.blocks[0]

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
        stream = self.embed(input_ids)
        for block in self.blocks:
            if self.way == "checkpointed":
                stream, _ = checkpoint(block, stream, attention_mask, use_reentrant=False)
            elif self.way == "by hand":
                stream, _ = block.forward(stream, attention_mask)
            elif self.way == "in place":
                new, _ = block(stream, attention_mask)
                stream = stream.copy_(new)
                stream = stream.clone()
            else:
                stream, _ = block(stream, attention_mask)
        if self.way == "twice":
            self.blocks[1](stream, attention_mask)
        if self.way == "all twice":
            self.way = "plain"
            self.forward(input_ids, attention_mask)


def strange(way: str) -> TokenSource:
    model = Strange(way)
    config = TokenModelSource(max_length=10)
    return TokenSource("toy", config, model, list(model.blocks), tokenize, d_in=WIDTH, pad_id=PAD)


@pytest.mark.parametrize(
    ("way", "layers", "message"),
    [
        ("all twice", [0], r"toy: layer 1: its block runs more than once in a pass \(2 times\).*family: plugin"),
        ("all twice", [2], "toy: layer 1: its block runs more than once"),
        ("twice", [1], "toy: layer 2: its block runs more than once"),
        ("shared", [1, 2], "toy: layer 2 has the same module as layer 1.*family: plugin"),
        ("by hand", [1], "toy: layer 1 did not run in the forward pass"),
        ("by hand", [0], "toy: layer 0 did not run in the forward pass"),
    ],
)
def test_a_block_that_does_not_run_once_in_a_pass_is_refused(way, layers, message):
    with pytest.raises(UserError, match=message):
        strange(way).forward(examples(*TEXTS), layers)


@pytest.mark.parametrize("way", ["checkpointed", "in place"])
def test_what_runs_once_is_recorded_as_it_left_the_block(way):
    acts = strange(way).forward(examples(*TEXTS), [0, 1, 2])
    for layer in range(3):
        check(acts, layer, [expected(text, layer) for text in TEXTS])


LONG = "abcdefghijklmnopqrs"  # 19 letters; 8 fit beside the special tokens


def test_cut_keeps_the_beginning():
    acts = opened()[0].forward(examples(LONG, "abc"), [2])
    assert acts.tokens_per_example == [8, 3]
    check(acts, 2, [expected(LONG[:8], 2), expected("abc", 2)])


def test_split_keeps_every_token_once_each_part_between_special_tokens():
    acts = opened(long="split")[0].forward(examples("abc", LONG, LONG[:16], "z"), [2])
    assert acts.tokens_per_example == [3, 19, 16, 1]
    parts = [LONG[:8], LONG[8:16], LONG[16:]]
    check(acts, 2, [expected(row, 2) for row in ["abc", *parts, *parts[:2], "z"]])


def test_skip_leaves_long_examples_out_and_no_others():
    source, model = opened(long="skip")
    acts = source.forward(examples(LONG, "abc", LONG[:9], LONG[:8], LONG), [2])
    assert acts.tokens_per_example == [0, 3, 0, 8, 0]
    check(acts, 2, [expected("abc", 2), expected(LONG[:8], 2)])
    assert model.shapes == [(2, 10)]


@pytest.mark.parametrize("options", [{"long": "skip"}, {"long": "skip", "batch_tokens": 20}])
def test_a_batch_that_is_skipped_altogether_has_no_tokens_and_no_pass(options):
    source, model = opened(**options)
    acts = source.forward(examples(LONG, LONG), [0, 2])
    assert acts.tokens_per_example == [0, 0]
    assert {layer: values.shape for layer, values in acts.layers.items()} == {0: (0, WIDTH), 2: (0, WIDTH)}
    assert model.shapes == []


def test_empty_examples_have_no_tokens_even_alone():
    for texts in (["", ""], [""]):
        acts = opened()[0].forward(examples(*texts), [1])
        assert acts.tokens_per_example == [0] * len(texts)
        assert acts.layers[1].shape == (0, WIDTH)
    source, model = opened(tokenize=lambda text: tokenize(text)._replace(before=[], after=[]))
    assert source.forward(examples("", "abc"), [1]).tokens_per_example == [0, 3]
    assert source.forward(examples(""), [1]).tokens_per_example == [0]
    assert model.shapes == [(1, 3)]  # a row of padding alone would be no input for many models


@pytest.mark.parametrize("long", ["cut", "split", "skip"])
@pytest.mark.parametrize("keep_special_tokens", [False, True])
@pytest.mark.parametrize("budget", [1, 10, 16, 23, 1000])
def test_a_budget_changes_the_passes_and_nothing_else(long, keep_special_tokens, budget):
    options = {"long": long, "keep_special_tokens": keep_special_tokens, "drop_first_token": True}
    batch = examples(*TEXTS, LONG, "ab", LONG[3:], "hello", LONG[:10])
    whole, _ = opened(**options)
    source, model = opened(batch_tokens=budget, **options)
    one, several = whole.forward(batch, [0, 1, 2]), source.forward(batch, [0, 1, 2])
    assert one.tokens_per_example == several.tokens_per_example
    for layer in range(3):
        np.testing.assert_allclose(several.layers[layer], one.layers[layer], atol=1e-6)
    assert all(rows * longest <= budget or rows == 1 for rows, longest in model.shapes)
    if budget == 1000:
        assert len(model.shapes) == 1


def test_a_budget_is_used_and_padding_costs_little_of_it():
    source, model = opened(batch_tokens=20)
    source.forward(examples("a", "abcdefgh", "b", "abcdefgh", "c", "d"), [1])
    assert sorted(model.shapes) == [(2, 10), (4, 3)]  # not [(2, 10), (2, 10), (2, 10)], as they come


def test_special_tokens_are_kept_on_request_in_every_part():
    everything = slice(None)
    acts = opened(keep_special_tokens=True, long="split")[0].forward(examples("abc", LONG, ""), [1])
    assert acts.tokens_per_example == [5, 19 + 6, 2]
    rows = ["abc", LONG[:8], LONG[8:16], LONG[16:], ""]
    check(acts, 1, [expected(row, 1, everything) for row in rows])


@pytest.mark.parametrize("keep_special_tokens", [False, True])
def test_the_first_token_of_an_examples_own_is_left_out_once(keep_special_tokens):
    options = {"drop_first_token": True, "long": "split", "keep_special_tokens": keep_special_tokens}
    acts = opened(**options)[0].forward(examples("abc", "", LONG, "z"), [2])
    kept = slice(None) if keep_special_tokens else slice(1, -1)
    first = 1 if keep_special_tokens else 0
    rows = [expected(row, 2, kept) for row in ["abc", "", LONG[:8], LONG[8:16], LONG[16:], "z"]]
    for number in (0, 2, 5):  # the parts that begin an example
        rows[number] = np.delete(rows[number], first, axis=0)
    check(acts, 2, rows)
    special = 2 if keep_special_tokens else 0
    assert acts.tokens_per_example == [2 + special, special, 18 + 3 * special, special]


def test_special_tokens_that_fill_the_length_are_a_mistake():
    with pytest.raises(UserError, match="toy: max_length 2 leaves no room after special tokens"):
        opened(max_length=2)[0].forward(examples("abc"), [1])
    assert opened(max_length=3)[0].forward(examples("abc"), [1]).tokens_per_example == [1]


def test_images_are_a_mistake():
    with pytest.raises(UserError, match="toy: reads text, but example 'p' is an image"):
        opened()[0].forward([Example("p", "p", np.zeros((2, 2, 3), np.uint8))], [1])


class Padder(Toy):
    """Returns more tokens than it was given, as models do that work in windows."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> None:
        super().forward(torch.nn.functional.pad(input_ids, (0, 3)), torch.nn.functional.pad(attention_mask, (0, 3)))


def test_a_block_of_another_shape_is_refused_and_its_rows_are_never_taken_for_tokens():
    model = Padder()
    config = TokenModelSource(max_length=10)
    source = TokenSource("toy", config, model, list(model.blocks), tokenize, d_in=WIDTH, pad_id=PAD)
    with pytest.raises(UserError, match=r"layer 1: the block returns \[2, 8, 4\].* for 2 examples of 5 tokens"):
        source.forward(examples("abc", "z"), [1])


def test_a_model_can_be_called_and_its_stream_found_in_other_ways():
    model = Toy()
    calls = []

    def call(ids: torch.Tensor, mask: torch.Tensor) -> None:
        calls.append(mask.sum().item())
        model(ids, mask)

    source = TokenSource(
        "toy", TokenModelSource(max_length=10), model, list(model.blocks), tokenize, d_in=WIDTH, pad_id=PAD,
        call=call, stream=lambda value: value[0] if isinstance(value, tuple) else 2 * value,
    )  # fmt: skip
    acts = source.forward(examples("abc", "z"), [0, 1])
    assert calls == [8]
    check(acts, 0, [2 * expected("abc", 0), 2 * expected("z", 0)])
    check(acts, 1, [expected("abc", 1), expected("z", 1)])
