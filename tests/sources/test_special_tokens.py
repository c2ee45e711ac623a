"""Special tokens that a text spells itself: text like any other, left out or kept, as the config says; and counted."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import EsmTokenizer, GPT2Config, GPT2Model, PreTrainedTokenizerFast, PythonBackend

from saelib.sources.esm3 import tokenize as tokenize_esm3
from saelib.sources.progen2 import tokenize as tokenize_progen2
from saelib.sources.transformers import TextTokenizer

END = "<|endoftext|>"
PLAIN = "the cat sat on a mat"
TEXT = f"the cat{END} sat on{END}"


@pytest.fixture(scope="module")
def byte_level():
    """Saves a tokenizer like GPT-2's, whose end-of-text token is also the unknown token, which it never needs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280, special_tokens=[END], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator([PLAIN] * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END, unk_token=END)


@pytest.fixture(scope="module")
def checkpoint(byte_level, randomize, tmp_path_factory):
    folder = tmp_path_factory.mktemp("byte_level")
    byte_level.save_pretrained(folder)
    config = GPT2Config(vocab_size=len(byte_level), n_embd=16, n_layer=2, n_head=2, n_positions=64)
    randomize(GPT2Model(config)).save_pretrained(folder)
    return folder


def pieces(tokenizer, *texts: str) -> list[int]:
    """Ids of texts that spell no special token, one after another."""
    return [number for text in texts for number in tokenizer(text)["input_ids"]]


def opened(tokenizer, in_text="as_text", vocabulary=10_000):
    return TextTokenizer(tokenizer, vocabulary, "toy", in_text)


def test_what_a_text_spells_is_text(byte_level):
    read = opened(byte_level)
    found = read(TEXT)
    assert 0 not in found.own
    assert (found.before, found.after, found.left_out) == ([], [], frozenset())
    assert byte_level.decode(found.own) == TEXT
    assert len(found.own) > len(pieces(byte_level, "the cat", " sat on")) + 2
    # Other texts, before and afterwards, are read as they always were.
    assert read(PLAIN).own == pieces(byte_level, PLAIN)
    assert read.spelled == 2


@pytest.mark.parametrize("in_text", ["leave_out", "keep"])
def test_or_a_special_token_that_the_model_reads(byte_level, in_text):
    found = opened(byte_level, in_text)(TEXT)
    first, second = pieces(byte_level, "the cat"), pieces(byte_level, " sat on")
    assert found.own == [*first, 0, *second, 0]
    places = {len(first), len(first) + 1 + len(second)}
    assert found.left_out == (places if in_text == "leave_out" else set())


@pytest.mark.parametrize("in_text", ["as_text", "leave_out", "keep"])
def test_activations_are_those_of_the_tokens_that_are_kept(checkpoint, byte_level, open_text, examples, in_text):
    source = open_text(checkpoint, special_tokens_in_text=in_text, keep_special_tokens=False, max_length=64)
    tokens = source._tokenize(TEXT)
    with torch.inference_mode():
        whole = GPT2Model.from_pretrained(checkpoint)(
            torch.tensor([tokens.own]), output_hidden_states=True
        ).hidden_states[1][0]
    kept = [place for place in range(len(tokens.own)) if in_text != "leave_out" or tokens.own[place] != 0]
    acts = source.forward(examples(TEXT, PLAIN), [1])
    assert acts.tokens_per_example == [len(kept), len(pieces(byte_level, PLAIN))]
    np.testing.assert_allclose(acts.layers[1][: len(kept)], whole[kept].numpy(), atol=1e-5)


def test_parts_of_long_texts_leave_out_the_same_tokens(checkpoint, open_text, examples):
    options = {"special_tokens_in_text": "leave_out", "keep_special_tokens": False}
    whole = open_text(checkpoint, max_length=64, **options).forward(examples(TEXT), [0]).tokens_per_example
    split = open_text(checkpoint, max_length=4, long="split", **options).forward(examples(TEXT), [0])
    assert split.tokens_per_example == whole


def test_they_are_counted_and_logged_now_and_then(byte_level, caplog):
    read = opened(byte_level)
    for _ in range(6):
        read(TEXT)
    assert read.spelled == 12
    said = [record.getMessage() for record in caplog.records]
    assert [message.split()[4] for message in said] == ["2", "10"]
    assert said[0].startswith(f"toy: its texts contain 2 special tokens so far, the latest is {END} (special_tokens_in")


def test_unknown_words_are_no_special_tokens_unless_spelled():
    words = {"[UNK]": 0, "[SEP]": 1, "the": 2, "[": 3, "]": 4, "SEP": 5, "UNK": 6}
    backend = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    read = opened(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", sep_token="[SEP]"))
    assert read("the zebra").own == [2, 0]
    assert read.spelled == 0
    assert read("the [SEP] zebra").own == [2, 3, 5, 4, 0]
    assert read("[UNK] zebra").own == [3, 6, 4, 0]


def test_what_cannot_be_read_as_text_is_left_out():
    """A vocabulary in which `</s>` is a piece like others, whoever spells it."""
    alphabet = [(letter, -5.0) for letter in "▁thecat"]
    backend = Tokenizer(models.Unigram([("</s>", 0.0), ("<unk>", 0.0), *dict.fromkeys(alphabet)], unk_id=1))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    read = opened(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>"))
    found = read("the</s>cat")
    assert [number == 0 for number in found.own].index(True) in found.left_out
    assert len(found.left_out) == 1


def test_a_tokenizer_without_other_spellings_still_reads_the_rest(tmp_path):
    words = ["<cls>", "<pad>", "<eos>", "<unk>", *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    found = opened(EsmTokenizer(str(tmp_path / "vocab.txt")))("MKT<mask>LJL")
    own = ["M", "K", "T", "<mask>", "L", "<unk>", "L"]
    assert found == ([0], [words.index(word) for word in own], [2], frozenset({3}))


class Silent(PythonBackend):
    """Adds tokens as many tokenizers of checkpoints' own code do, and does not say so in its mask."""

    def __init__(self) -> None:
        self.words = {"<s>": 0, "</s>": 1, "<unk>": 2, **{letter: 3 + i for i, letter in enumerate("</s>abc")}}
        super().__init__(bos_token="<s>", eos_token="</s>", unk_token="<unk>")

    @property
    def vocab_size(self):
        return len(self.words)

    def get_vocab(self):
        return dict(self.words)

    def _tokenize(self, text, **kwargs):
        return list(text)

    def _convert_token_to_id(self, token):
        return self.words.get(token, 2)

    def _convert_id_to_token(self, index):
        return next(word for word, number in self.words.items() if number == index)

    def build_inputs_with_special_tokens(self, token_ids_0, token_ids_1=None):
        return [0, *token_ids_0, 1]


def test_added_tokens_are_found_where_the_tokenizer_does_not_say():
    tokenizer = Silent()
    read, words = opened(tokenizer), tokenizer.words
    assert read("abc") == ([0], [words[letter] for letter in "abc"], [1], frozenset())
    assert read("a</s>") == ([0], [words[letter] for letter in "a</s>"], [1], frozenset())
    assert opened(tokenizer, "leave_out")("a</s>") == ([0], [words["a"], 1], [1], frozenset({1}))


def test_residues_are_letters_alone():
    vocabulary = {"1": 3, "2": 4, "X": 5, "M": 6, "K": 7}
    assert tokenize_progen2("1MK2", vocabulary).own == [5, 6, 7, 5]
    vocabulary = {"<cls>": 0, "<eos>": 2, "X": 5, "M": 6, "K": 7, "|": 31}
    found = tokenize_esm3("MK|KJ", vocabulary)
    assert (found.own, found.left_out) == ([6, 7, 31, 7, 5], {2})
