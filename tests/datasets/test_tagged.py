"""Tagged texts: models read prose, and every word keeps its place and its tags."""

import gzip

import pytest

from saelib.config.datasets import TaggedText
from saelib.config.files import LocalFiles
from saelib.datasets import open_dataset
from saelib.datasets.tagged import brown_concepts, documents, is_tagged
from saelib.errors import UserError

BROWN = """

\tThe/at jury/nn said/vbd ``/`` no/at evidence/nn ''/'' (/( or/cc don't/do* )/) ./.


\tShe/pps left/vbd ;/. he/pps 'd/md stay/vb
"""
CONLLU = """# newdoc id = one
# text = Don't go, Ann.
1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_
1\tDo\tdo\tAUX\tVBP\tMood=Imp\t3\taux\t_\t_
2\tn't\tnot\tPART\tRB\tPolarity=Neg\t3\tadvmod\t_\t_
3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\tSpaceAfter=No
4\t,\t,\tPUNCT\t,\t_\t3\tpunct\t_\t_
4.1\timplied\t_\tVERB\t_\t_\t_\t_\t_\t_
5\tAnn\tAnn\tPROPN\tNNP\tNumber=Sing\t3\tvocative\t_\tSpaceAfter=No
6\t.\t.\tPUNCT\t.\t_\t3\tpunct\t_\t_

# newdoc id = two
1\tYes\tyes\tINTJ\tUH\t_\t0\troot\t_\t_
"""


def words(document):
    return [(document.text[word.start : word.end], *word.concepts) for word in document.words]


def test_words_with_tags_become_prose(tmp_path):
    (tmp_path / "ca01").write_text(BROWN)
    (one,) = documents(tmp_path / "ca01")
    assert one.text == "The jury said \"no evidence\" (or don't).\nShe left; he'd stay"
    assert one.name == f"{tmp_path.name}/ca01"
    assert words(one)[:4] == [
        ("The", "tag: at", "class: determiner"),
        ("jury", "tag: nn", "class: noun"),
        ("said", "tag: vbd", "class: verb"),
        ('"',),
    ]
    assert words(one)[-2:] == [("'d", "tag: md", "class: verb"), ("stay", "tag: vb", "class: verb")]


def test_conllu_keeps_joined_words_spaces_and_documents(tmp_path):
    (tmp_path / "en.conllu.gz").write_bytes(gzip.compress(CONLLU.encode()))
    first, second = documents(tmp_path / "en.conllu.gz")
    assert (first.text, second.text) == ("Don't go, Ann.", "Yes")
    assert words(first)[0] == (
        "Don't", "class: aux", "tag: VBP", "Mood=Imp", "class: part", "tag: RB", "Polarity=Neg",
    )  # fmt: skip
    assert words(first)[1:] == [
        ("go", "class: verb", "tag: VB"),
        (",",),
        ("Ann", "class: propn", "tag: NNP", "Number=Sing"),
        (".",),
    ]
    assert first.name != second.name


@pytest.mark.parametrize(
    ("tag", "concepts"),
    [
        ("NN-TL-HL", ("tag: nn", "class: noun")),
        ("fw-nn", ("tag: nn", "class: noun")),
        ("ppss+bem", ("tag: ppss+bem", "class: pronoun")),
        ("wrb", ("tag: wrb", "class: adverb")),
        ("*", ("tag: *", "class: particle")),
        (".", ()),
        ("--", ()),
    ],
)
def test_tags_of_the_brown_corpus(tag, concepts):
    assert brown_concepts(tag) == concepts


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.pos", "The/at dog\n", "line 1: 'dog' should be a word and its tag"),
        ("a.pos", "The/at\n/nn\n", "line 2: '/nn' should be a word and its tag"),
        ("a.conllu", "1\tA\tB\n", "line 1: has 3 fields, starting with '1'"),
        ("a.conllu", "x" + 9 * "\t_" + "\n", "line 1: has 10 fields, starting with 'x'"),
    ],
)
def test_a_line_in_neither_format_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_text(content)
    with pytest.raises(UserError, match=said):
        list(documents(tmp_path / name))


def test_names_of_tagged_files(tmp_path):
    names = ["ca01", "a.txt", "a.pos.gz", "a.conllu.xz", "a.json", "a.pickle"]
    assert [is_tagged(tmp_path / name) for name in names] == [True, True, True, True, False, False]


def test_the_data_set_reads_prose_and_splits_by_document(tmp_path):
    for number in range(12):
        (tmp_path / f"c{number:02}").write_text(f"Text/nn {number}/cd ends/vbz ./.\n" * 40)
    config = TaggedText(kind="tagged_text", files=(LocalFiles(path=tmp_path),), characters=100)
    data = open_dataset(config)
    train, heldout = (list(data.examples(split, 0, 0.3)) for split in ("train", "heldout"))
    assert all("/" not in example.content for example in train + heldout)
    assert {example.group for example in train}.isdisjoint({example.group for example in heldout})
    assert len({example.group for example in train + heldout}) == 12
