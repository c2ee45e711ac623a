"""Documents in the formats that text comes in: each once, split by content, mixed, and never all in memory."""

import gzip
import itertools
import json
import tracemalloc

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saelib.config.datasets import Text
from saelib.config.files import LocalFiles
from saelib.datasets import open_dataset
from saelib.datasets.text import StreamedText, file_documents, shuffled
from saelib.errors import UserError

DOCUMENTS = [f"Document {i}\nhas two lines, “quoted”." for i in range(60)]


def write_parquet(path, documents):
    pq.write_table(pa.table({"url": ["u"] * len(documents), "text": documents}), path, row_group_size=7)


def write_lines(path, documents):
    lines = "".join(json.dumps({"text": text, "meta": {"length": len(text)}}) + "\n" for text in documents)
    path.write_bytes(gzip.compress(lines.encode()) if path.suffix == ".gz" else lines.encode())


def write_json(path, documents):
    path.write_text(json.dumps([{"text": text} for text in documents]))


def write_arrow(path, documents):
    table = pa.table({"text": documents})
    with pa.OSFile(str(path), "wb") as stream, pa.ipc.new_stream(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=9)


WRITERS = {
    "a.parquet": write_parquet,
    "a.jsonl": write_lines,
    "a.jsonl.gz": write_lines,
    "a.json": write_json,
    "data-00000-of-00001.arrow": write_arrow,
}


def dataset(path, **options):
    return open_dataset(Text(kind="text", files=(LocalFiles(path=path),), **options))


def streamed(documents, **options):
    """Opens the same data set from a list in memory."""
    config = Text(kind="text", files=(LocalFiles(path="unused"),), **options)
    return StreamedText(lambda: ((f"list#{i}", text) for i, text in enumerate(documents)), "list", config)


def examples(data, split, seed=0, fraction=0.3):
    return list(data.examples(split, seed, fraction))


def both(data, seed=0):
    return [*examples(data, "train", seed), *examples(data, "heldout", seed)]


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_its_documents_once(tmp_path, name):
    folder = tmp_path / "set[1]"  # brackets mean something to those who look for patterns
    folder.mkdir()
    WRITERS[name](folder / name, DOCUMENTS)
    (folder / "README.md").write_text("about")
    (folder / "dataset_info.json").write_text('{"description": "no rows"}')
    found = both(dataset(folder))
    assert sorted(example.content for example in found) == sorted(DOCUMENTS)
    by_name = {example.id: example.content for example in found}
    assert by_name[f"set[1]/{name}#17"] == DOCUMENTS[17]


def test_text_files_are_a_document_each(tmp_path):
    for number, text in enumerate(DOCUMENTS):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8")
    assert sorted(example.content for example in both(dataset(tmp_path))) == sorted(DOCUMENTS)


def test_the_split_is_a_documents_own_whatever_else_there_is_and_in_which_order():
    heldout = {example.content for example in examples(streamed(DOCUMENTS), "heldout")}
    backward = {example.content for example in examples(streamed(DOCUMENTS[::-1]), "heldout")}
    assert heldout == backward
    fewer = {example.content for example in examples(streamed(DOCUMENTS[::2]), "heldout")}
    assert fewer == heldout & set(DOCUMENTS[::2])
    assert {example.content for example in examples(streamed(DOCUMENTS), "heldout", seed=1)} != heldout


@pytest.mark.parametrize("fraction", [0.05, 0.3, 0.9])
def test_about_the_fraction_asked_for_is_held_out(fraction):
    count = len(examples(streamed([f"document {i}" for i in range(4000)]), "heldout", fraction=fraction))
    assert abs(count - 4000 * fraction) < 4 * np.sqrt(4000 * fraction * (1 - fraction))


def test_a_repeated_document_is_in_one_split_once_and_empty_ones_are_counted():
    data = streamed(["", "  \n", *DOCUMENTS, *DOCUMENTS[:20], DOCUMENTS[0] + "\n"])
    assert sorted(example.content for example in both(data)) == sorted(DOCUMENTS)
    train = len(examples(data, "train"))
    assert data.counts == {"documents": 83, "empty": 2, "repeated": 21, "examples": train}


def test_passages_are_the_whole_document_cut_between_lines():
    long = ["\n".join(f"line {i} of document {n}" for i in range(40)) for n in range(10)]
    data = streamed(long, characters=200, buffer=7)
    found = both(data)
    assert all(120 < len(example.content) < 280 for example in found)
    groups = {example.group for example in examples(data, "train")}
    assert not groups & {example.group for example in examples(data, "heldout")}
    assert len({example.group for example in found}) == 10
    for number, text in enumerate(long):
        parts = [example for example in found if example.id.startswith(f"list#{number}:")]
        parts.sort(key=lambda example: int(example.id.split(":")[1].split("-")[0]))
        assert "\n".join(part.content for part in parts) == text


def test_the_order_is_the_seeds_and_mixes_as_far_as_the_buffer_reaches():
    numbers = [[int(e.content) for e in examples(streamed(map(str, range(2000)), buffer=b), "train")] for b in (1, 300)]
    assert numbers[0] == sorted(numbers[0])
    assert sorted(numbers[1]) == numbers[0]
    again = [int(e.content) for e in examples(streamed(map(str, range(2000)), buffer=300), "train")]
    assert again == numbers[1]
    # A buffer that holds everything is a shuffle: no place is favored.
    places = [list(shuffled(range(10), 100, np.random.default_rng(seed))).index(3) for seed in range(500)]
    assert np.bincount(places, minlength=10).min() > 25


def test_the_stream_is_read_as_far_as_it_is_used_and_no_further():
    read = []

    def documents():
        for number in itertools.count():
            read.append(number)
            yield f"d{number}", f"document {number}"

    data = StreamedText(documents, "endless", Text(kind="text", files=(LocalFiles(path="unused"),), buffer=50))
    assert len(list(itertools.islice(data.examples("train", 0, 0.3), 100))) == 100
    assert 150 <= len(read) < 400


def test_a_large_file_is_not_read_into_memory(tmp_path):
    rng = np.random.default_rng(0)
    texts = [rng.bytes(500).hex() for _ in range(20_000)]
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet", row_group_size=500, compression="none")
    next(iter(file_documents([tmp_path / "a.parquet"], "text")))  # imports
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    peak = 0
    for _ in file_documents([tmp_path / "a.parquet"], "text"):
        peak = max(peak, pa.total_allocated_bytes() - before)
    peak += tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000  # of 20 MB


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("damage", ["cut", "junk", "empty"])
def test_a_damaged_file_is_one_clear_line(tmp_path, name, damage):
    path = tmp_path / name
    WRITERS[name](path, DOCUMENTS)
    content = path.read_bytes()
    path.write_bytes({"cut": content[: len(content) // 2], "junk": b"\x00\xffjunk" * 50, "empty": b""}[damage])
    with pytest.raises(UserError, match=rf"{name}(: not readable as|\)?: is empty)") as caught:
        both(dataset(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", WRITERS)
def test_a_column_that_is_not_there_or_holds_no_text(tmp_path, name):
    WRITERS[name](tmp_path / name, DOCUMENTS)
    with pytest.raises(UserError, match=rf"{name}: has no column 'content'; its columns are .*text"):
        both(dataset(tmp_path, column="content"))
    pq.write_table(pa.table({"text": [1, 2]}), tmp_path / "b.parquet")
    with pytest.raises(UserError, match="column 'text' holds int, should hold text"):
        both(dataset(tmp_path / "b.parquet"))


def test_missing_text_is_empty(tmp_path):
    pq.write_table(pa.table({"text": [None, *DOCUMENTS]}), tmp_path / "a.parquet")
    data = dataset(tmp_path)
    assert len(both(data)) == 60
    assert data.counts["empty"] == 1


def test_too_few_documents_and_no_files_are_errors(tmp_path):
    with pytest.raises(UserError, match=r"list: has one document only, of 8 characters.*give more documents"):
        both(streamed(["only one"]))
    with pytest.raises(UserError, match=r"list: is empty: none of its 2 documents holds any text"):
        both(streamed(["", "\ufeff \r\n"]))
    (tmp_path / "README.md").write_text("about")
    with pytest.raises(UserError, match=rf"no \.txt, .*\.zst\) files in {tmp_path}; found: \.md \(1\)"):
        dataset(tmp_path)
    (tmp_path / "latin.txt").write_bytes("é".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt: not readable as text: byte 0 \(0xe9\) is not UTF-8"):
        both(dataset(tmp_path))


def test_json_that_is_neither_lines_nor_a_list_says_what_is_wanted(tmp_path):
    (tmp_path / "a.json").write_text('{\n "text": "pretty"\n}\n')
    with pytest.raises(UserError, match=r"a\.json: not readable as json \(line 1, .*one object per line, or a list"):
        both(dataset(tmp_path))
    (tmp_path / "a.json").write_text('{"text": "x"}\n"y"\n')
    with pytest.raises(UserError, match=r"a\.json: not readable as json \(line 2 holds str, should be an object"):
        both(dataset(tmp_path))


def test_a_row_of_json_may_leave_its_text_out(tmp_path):
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": one}) + "\n" for one in DOCUMENTS) + '{"n": 1}\n')
    data = dataset(tmp_path)
    assert sorted(example.content for example in both(data)) == sorted(DOCUMENTS)
    assert data.counts["empty"] == 1


def test_empty_files_among_others_are_counted_and_arrows_file_format_is_read(tmp_path):
    for name in ("a.txt", "b.jsonl"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "c.txt").write_bytes(b"\xef\xbb\xbf\r\n")
    table = pa.table({"text": DOCUMENTS})
    with pa.OSFile(str(tmp_path / "d.arrow"), "wb") as stream, pa.ipc.new_file(stream, table.schema) as writer:
        writer.write_table(table, max_chunksize=9)
    data = dataset(tmp_path)
    assert sorted(example.content for example in both(data)) == sorted(DOCUMENTS)
    assert (data.counts["documents"], data.counts["empty"]) == (63, 3)
