"""Text streamed from a hub: pinned to a commit, nothing downloaded as a whole, errors in one line."""

import io
import logging

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from saelib.config.datasets import Text
from saelib.datasets import open_dataset
from saelib.errors import UserError

DOCUMENTS = [f"document {i}\nof the hub" for i in range(40)]


@pytest.fixture
def data_set(hub, monkeypatch, tmp_path):
    """Makes a data set as the hub stores it, in Parquet files."""
    stream = io.BytesIO()
    pq.write_table(pa.table({"text": DOCUMENTS, "n": range(40)}), stream)
    hub.repository, hub.files = "datasets/org/toy", {"train.parquet": stream.getvalue(), "README.md": b"# toy\n"}
    monkeypatch.setattr("datasets.config.HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    return hub


def text(**options):
    return open_dataset(
        Text(kind="text", hub={"hf": "org/toy", "revision": "main", **options.pop("hub", {})}, **options)
    )


def contents(data):
    return sorted(example.content for split in ("train", "heldout") for example in data.examples(split, 0, 0.3))


def test_a_data_set_is_streamed_at_the_commit_of_its_branch(data_set, caplog, tmp_path):
    with caplog.at_level(logging.WARNING):
        data = text()
    assert f"'main' is now {data_set.commit}" in caplog.text
    assert contents(data) == sorted(DOCUMENTS)
    assert "train.parquet" in data_set.sent
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_commit_needs_no_asking(data_set):
    text(hub={"revision": data_set.commit})
    assert data_set.asked == 0


def test_what_the_hub_does_not_have(data_set):
    with pytest.raises(UserError, match=r"hf org/other@main: the hub has no such dataset"):
        text(hub={"hf": "org/other"})
    with pytest.raises(UserError, match=r"the hub has no revision 'v9'"):
        text(hub={"revision": "v9"})
    with pytest.raises(UserError, match=r"hf org/toy: .*split"):
        contents(text(hub={"split": "nowhere"}))
    with pytest.raises(UserError, match=r"hf org/toy: .*'nowhere' not found"):
        contents(text(hub={"configuration": "nowhere"}))
    with pytest.raises(UserError, match=r"hf org/toy: has no column 'content'; its columns are text, n"):
        contents(text(column="content"))
    data_set.gated = True
    with pytest.raises(UserError, match=r"gated: accept the license at https://huggingface\.co/datasets/org/toy"):
        text()


@pytest.mark.parametrize("revision", ["main", "a1" * 20])
def test_without_a_network_it_says_what_to_do(data_set, monkeypatch, revision):
    data_set.close()
    # As HF_HUB_OFFLINE=1; without it the libraries try again and again for half a minute.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"Without a network, .*files: \[\{path: /the/folder\}\]") as caught:
        contents(text(hub={"revision": revision}))
    assert "\n" not in str(caught.value)
