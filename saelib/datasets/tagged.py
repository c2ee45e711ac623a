"""Reads texts whose words carry tags (parts of speech): files of `word/tag`, as the Brown corpus has them, or CoNLL-U.

`documents` gives the text that models read and the place of every word in it, so that data set and labels agree.
"""

import re
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from saelib.config.datasets import TaggedText
from saelib.datasets.decoding import PACKED, text_lines
from saelib.datasets.listing import Listing, list_files, suffix_of
from saelib.datasets.text import StreamedText
from saelib.errors import UserError

CONLLU = (".conllu", ".conll")
SUFFIXES = ("", ".txt", ".pos", ".tagged", *CONLLU)
"""Endings of tagged files, before that of their compression. Those of the Brown corpus have none."""
ALLOWED = f"word/tag files ({', '.join(SUFFIXES[1:-2])} or no ending) and CoNLL-U ({', '.join(CONLLU)})"
QUOTES = {"``": '"', "''": '"'}
NO_SPACE_BEFORE = re.compile(r"[.,;:?!)\]}%]+$|^''$|^n't$|^'\w{1,2}$")
NO_SPACE_AFTER = re.compile(r"^(``|[(\[{$])$")
BROWN_PLACES = re.compile(r"(-(tl|hl|nc))+$")
"""Endings of Brown's tags that tell where a word stands: in a title, in a headline, or cited."""
BROWN_CLASSES = (
    ("noun", r"nn|np|nr"),
    ("verb", r"vb|be|do|hv|md"),
    ("adjective", r"jj"),
    ("adverb", r"rb|rn|ql|wrb|wql"),
    ("pronoun", r"pn|pp|wp"),
    ("determiner", r"at|ab|ap|dt|wdt"),
    ("number", r"cd|od"),
    ("preposition", r"in"),
    ("conjunction", r"cc|cs"),
    ("particle", r"to|rp|ex|\*"),
    ("interjection", r"uh"),
)
"""Word class -> beginnings of Brown's tags."""


class Word(NamedTuple):
    """A word of a document, and the concepts that its tags name."""

    start: int
    end: int
    """Characters of the document's text, the end exclusive."""
    concepts: tuple[str, ...]


class Document(NamedTuple):
    """A text and its words."""

    name: str
    text: str
    words: tuple[Word, ...]


class _Piece(NamedTuple):
    """A word of a file, before it has a place in the text."""

    form: str
    concepts: tuple[str, ...]
    space_before: bool


def is_tagged(file: Path) -> bool:
    """Tells by its name whether a file may hold tagged text."""
    ending = suffix_of(file)
    packed = next((one for one in PACKED if ending.endswith(one)), "")
    return ending.removesuffix(packed) in SUFFIXES


def documents(file: Path) -> Iterator[Document]:
    """Reads the documents of a file, with a sentence on each line of their texts.

    A file is one document, but for CoNLL-U files with comments `# newdoc`.

    Raises:
        UserError: If the file is damaged, or if a line of it is in neither format.
    """
    ending = suffix_of(file)
    conllu = any(part in CONLLU for part in (ending, Path(ending).stem))
    name = f"{file.parent.name}/{file.name}"
    for number, sentences in enumerate(_conllu(file) if conllu else [_slashed(file)]):
        yield _laid_out(f"{name}#{number}" if conllu else name, sentences)


def _laid_out(name: str, sentences: Iterable[list[_Piece]]) -> Document:
    """Gives every word its place in the text."""
    lines: list[str] = []
    words: list[Word] = []
    length = 0
    for sentence in sentences:
        line = ""
        for form, concepts, space_before in sentence:
            line += " " * (space_before and bool(line))
            words.append(Word(length + len(line), length + len(line) + len(form), concepts))
            line += form
        lines.append(line)
        length += len(line) + 1
    return Document(name, "\n".join(lines), tuple(words))


def _slashed(file: Path) -> Iterator[list[_Piece]]:
    """Reads sentences of `word/tag`, one on each line that is not empty."""
    for number, line in enumerate(text_lines(file), 1):
        sentence: list[_Piece] = []
        opened = False
        for token in line.split():
            form, slash, tag = token.rpartition("/")
            if not (form and slash and tag):
                raise UserError(f"{file}: line {number}: '{token[:40]}' should be a word and its tag, such as dog/nn")
            space_before = not (opened or NO_SPACE_BEFORE.match(form))
            sentence.append(_Piece(QUOTES.get(form, form), brown_concepts(tag), space_before))
            opened = bool(NO_SPACE_AFTER.match(form))
        if sentence:
            yield sentence


def brown_concepts(tag: str) -> tuple[str, ...]:
    """Names the tag and the word class of a tag of the Brown corpus; nothing for punctuation.

    Example:
        >>> brown_concepts("NP$-TL")
        ('tag: np$', 'class: noun')
    """
    plain = BROWN_PLACES.sub("", tag.lower()).removeprefix("fw-")
    if not re.search("[a-z*]", plain):
        return ()
    classes = [f"class: {name}" for name, beginnings in BROWN_CLASSES if re.match(beginnings, plain)]
    return (f"tag: {plain}", *classes[:1])


def _conllu(file: Path) -> Iterator[list[list[_Piece]]]:
    """Reads the documents of a CoNLL-U file as lists of sentences."""
    sentences: list[list[_Piece]] = []
    lines: list[list[str]] = []
    for number, line in enumerate(chain(text_lines(file), [""]), 1):
        if line.startswith("# newdoc") and sentences:
            yield sentences
            sentences = []
        elif line.strip() and not line.startswith("#"):
            fields = line.split("\t")
            if len(fields) != 10 or not re.fullmatch(r"\d+([-.]\d+)?", fields[0]):
                raise UserError(
                    f"{file}: line {number}: has {len(fields)} fields, starting with '{fields[0][:20]}'; a word of "
                    "CoNLL-U has 10, separated by tabs, and starts with its number"
                )
            lines.append(fields)
        elif not line.strip() and lines:
            sentences.append(_sentence(lines))
            lines = []
    if sentences:
        yield sentences


def _sentence(lines: Iterable[list[str]]) -> list[_Piece]:
    """Makes a sentence of its lines. A form that stands for several words (`don't`) has the concepts of all."""
    sentence: list[_Piece] = []
    joined_until, space = 0, False
    for fields in lines:
        number, form = fields[0], fields[1]
        if "." in number:  # a word that is only implied
            continue
        first, joined, last = number.partition("-")
        if not joined and int(first) <= joined_until:
            concepts = dict.fromkeys((*sentence[-1].concepts, *_concepts(fields)))
            sentence[-1] = sentence[-1]._replace(concepts=tuple(concepts))
            continue
        joined_until = int(last) if joined else 0
        sentence.append(_Piece(form, () if joined else tuple(_concepts(fields)), space))
        space = "SpaceAfter=No" not in fields[9].split("|")
    return sentence


def _concepts(fields: list[str]) -> Iterator[str]:
    """Names the word class, the tag and the features of a word. Punctuation has none."""
    if fields[3] in ("PUNCT", "SYM"):
        return
    if fields[3] != "_":
        yield f"class: {fields[3].lower()}"
    if fields[4] != "_":
        yield f"tag: {fields[4]}"
    if fields[5] != "_":
        yield from fields[5].split("|")


def listing(config: TaggedText) -> Listing:
    """Lists the files. Raises `UserError` if there are none."""
    return list_files("tagged_text", config.files, is_tagged, ALLOWED)


def open_dataset(config: TaggedText) -> StreamedText:
    """Finds the documents, without reading them yet. Models read their texts without the tags.

    Raises:
        UserError: If the files cannot be fetched.
    """
    files = listing(config).files
    shown = ", ".join(file.name for file in files[:3]) + (", ..." if len(files) > 3 else "")
    return StreamedText(lambda: _texts(files), f"tagged_text ({shown})", config)


def _texts(files: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for file in files:
        for one in documents(file):
            yield one.name, one.text
