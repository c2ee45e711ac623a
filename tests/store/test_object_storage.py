"""Stores on a real S3 server behave like stores in a folder, and a server's faults are reported."""

import json
import os
import pickle
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from saelib.activations.open import open_rows
from saelib.activations.rows import read_float32
from saelib.cli import main as command_line
from saelib.config.load import check_config
from saelib.errors import UserError
from saelib.pipeline.plan import make_plan
from saelib.store import (
    StoreWriter,
    open_store,
    published_stores,
    read_key,
    read_keys,
    remote,
    remove_store,
    verify_store,
)
from saelib.store.read import _open_elsewhere
from saelib.store.rounding import choose_offset
from tests.store.metadata import described

s3 = pytest.importorskip("saelib.store.s3", reason="the extra s3 is not installed", exc_type=(ImportError, UserError))
pytest.importorskip("moto.server")

TRAIN, HELDOUT, D = 1000, 300, 24
ROOT = "s3://bucket/some/place"
URL = f"{ROOT}/m/layer_3.zarr"
KEY, OTHER = "a" * 64, "b" * 64
SECRET, PUBLIC = "wJalrXUtnFEMIsecret", "AKIAIOSFODNN7EXAMPLE"


@contextmanager
def moto() -> Iterator[tuple[str, subprocess.Popen]]:
    """A server in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with moto() as (endpoint, _):
        yield endpoint


def use(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    settings = {"ENDPOINT_URL": endpoint, "ACCESS_KEY_ID": PUBLIC, "SECRET_ACCESS_KEY": SECRET}
    settings |= {"DEFAULT_REGION": "us-east-1", "EC2_METADATA_DISABLED": "true", "CONFIG_FILE": "none"}
    for name, value in (settings | {"SHARED_CREDENTIALS_FILE": "none"}).items():
        monkeypatch.setenv(f"AWS_{name}", value)
    s3._connect.cache_clear()


@pytest.fixture
def bucket(server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.S3Folder]:
    """An empty bucket."""
    import boto3

    use(server, monkeypatch)
    boto3.client("s3").create_bucket(Bucket="bucket")
    folder = s3.open_bucket("bucket")
    yield folder / "some"
    (folder / "some").remove((folder / "some").names())
    s3._connect.cache_clear()


def activations(rows: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, D)).astype(np.float32)


def fill(place: object, key: str = KEY, seed: int = 0, largest: float = 1.0, rows: int = TRAIN) -> None:
    train, heldout = activations(TRAIN, seed), activations(HELDOUT, seed + 1)
    train[-1] *= largest
    tokens = {"train": TRAIN, "heldout": HELDOUT}
    writer = StoreWriter(
        place, tokens=tokens, d_in=D, offset=choose_offset(train[:64]), chunk_rows=128, window_rows=400, seed=3
    )
    for split, acts in (("train", train[:rows]), ("heldout", heldout)):
        writer.append(split, acts, np.arange(len(acts), dtype=np.int32))
    writer.finish(described(writer, key=key))


def publish(url: str = URL, key: str = KEY, **how: float) -> None:
    with published_stores({3: url}, {3: key}) as places:
        fill(places[3], key, **how)


def generations(bucket: s3.S3Folder) -> set[str]:
    return {name.split("/")[0] for name in (bucket / "place/m/layer_3.zarr").names()}


@pytest.mark.parametrize("largest", [1.0, 1e6, 1e-6, 0.0])  # the second and third do not fit float16
def test_the_same_rows_as_from_a_folder(bucket: s3.S3Folder, tmp_path: Path, largest: float) -> None:
    publish(largest=largest)
    with published_stores({3: tmp_path / "layer_3.zarr"}, {3: KEY}) as places:
        fill(places[3], largest=largest)
    here, there = open_store(tmp_path / "layer_3.zarr"), open_store(URL)
    assert there.metadata == here.metadata
    for a, b in (
        (here.train, there.train),
        (here.heldout, there.heldout),
        (here.heldout, open_rows(f"{URL}::heldout")),
    ):
        np.testing.assert_array_equal(read_float32(a, 0, a.shape[0]), read_float32(b, 0, b.shape[0]))
    assert verify_store(URL) == []
    local = {str(file.relative_to(tmp_path / "layer_3.zarr")) for file in tmp_path.rglob("*") if file.is_file()}
    remote_names = (bucket / "place/m/layer_3.zarr").names()
    assert {name.partition("/")[2] for name in remote_names} == local


def test_readers_travel_without_credentials(bucket: s3.S3Folder) -> None:
    publish()
    rows = open_store(URL).train
    sent = pickle.dumps(rows)
    assert not any(word.encode() in sent for word in (SECRET, PUBLIC))
    np.testing.assert_array_equal(pickle.loads(sent).block(100, 400), rows.block(100, 400))
    publish(key=OTHER)
    _open_elsewhere.cache_clear()
    with pytest.raises(UserError, match="replaced by another store while it was being read"):
        pickle.loads(sent)


def test_a_store_counts_from_its_mark_on(bucket: s3.S3Folder) -> None:
    with published_stores({3: URL}, {3: KEY}) as places:
        fill(places[3])
        assert read_key(URL) is None
        with pytest.raises(UserError, match="no such store"):
            open_store(URL)
    assert read_key(URL) == KEY
    remove_store(URL)
    assert read_key(URL) is None
    assert bucket.names() == {}


def test_a_writer_that_fails_leaves_nothing(bucket: s3.S3Folder) -> None:
    with pytest.raises(UserError, match="of 1000 rows"):
        publish(rows=800)
    assert bucket.names() == {}


def test_a_killed_writer_leaves_nothing_that_counts_and_the_next_one_tidies(
    bucket: s3.S3Folder, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f"""if True:
        import sys, os, signal
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_object_storage as t
        with t.published_stores({{3: t.URL}}, {{3: t.KEY}}) as places:
            t.fill(places[3])
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert (
        subprocess.run([sys.executable, "-c", script], env=os.environ | {"AWS_ENDPOINT_URL": server}).returncode == -9
    )
    (left,) = generations(bucket)
    assert read_key(URL) is None
    publish(key=OTHER, seed=5)
    assert left in generations(bucket)  # it may be a slow writer's
    monkeypatch.setattr(remote, "ABANDONED_AFTER", timedelta(0))
    publish(key=KEY, seed=5)
    assert len(generations(bucket)) == 1
    assert left not in generations(bucket)
    assert verify_store(URL) == []


@pytest.mark.parametrize("keys", [(KEY, KEY), (KEY, OTHER)])
def test_two_writers_at_once_end_in_one_whole_store(bucket: s3.S3Folder, keys: tuple[str, str]) -> None:
    with (
        published_stores({3: URL}, {3: keys[0]}) as first,
        published_stores({3: URL}, {3: keys[1]}) as second,
    ):
        fill(first[3], keys[0], seed=1)
        fill(second[3], keys[1], seed=2)
    assert read_key(URL) in keys
    assert open_store(URL).metadata.key == read_key(URL)
    assert verify_store(URL) == []
    assert len(generations(bucket)) == 1
    assert len((bucket / "place/_published").names()) == 1


def test_of_two_marks_the_later_counts(bucket: s3.S3Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as killed_before_it_tidied:
        killed_before_it_tidied.setattr(remote, "_clean", lambda store: None)
        for key in (OTHER, KEY, OTHER):
            publish(key=key)
            time.sleep(1.1)  # the server's clock counts seconds
            assert open_store(URL).metadata.key == read_key(URL) == key
    assert len(generations(bucket)) == 3
    publish()
    assert len(generations(bucket)) == 1


def test_a_generation_that_lost_chunks_is_not_published(bucket: s3.S3Folder) -> None:
    def lose_one() -> None:
        with published_stores({3: URL}, {3: KEY}) as places:
            fill(places[3])
            (places[3] / "train/acts").remove(["c/2/0"])

    with pytest.raises(UserError, match="1 chunks were written but are gone"):
        lose_one()
    assert read_key(URL) is None


def only_generation(bucket: s3.S3Folder) -> s3.S3Folder:
    return bucket / "place/m/layer_3.zarr" / generations(bucket).pop()


def test_missing_truncated_and_changed_objects_are_named(bucket: s3.S3Folder) -> None:
    publish()
    place, chunk = only_generation(bucket), "train/acts/c/4/0"
    good = place.read_bytes(chunk)
    opened = open_store(URL)
    for bad in (good[:-1], good[:100], b"", good[:5] + bytes([good[5] ^ 1]) + good[6:]):
        place.write_bytes(chunk, bad)
        assert [problem.partition(":")[0] for problem in verify_store(URL)] == [chunk]
        with pytest.raises(UserError, match="corrupt chunk among 4 to 4"):
            opened.train.block(512, 600)
    place.remove([chunk])
    assert verify_store(URL) == [f"{chunk}: missing"]
    with pytest.raises(UserError, match="1 chunks are missing, the first is train/acts/c/4/0"):
        open_store(URL)
    with pytest.raises(UserError, match="c/4/0 is gone"):  # not NaN
        opened.train.block(512, 600)


def test_foreign_and_changed_metadata_are_refused(bucket: s3.S3Folder) -> None:
    publish()
    place = only_generation(bucket)
    metadata = json.loads(place.read_bytes("zarr.json"))
    metadata["attributes"]["train_tokens"] = 999
    place.write_bytes("zarr.json", json.dumps(metadata).encode())
    with pytest.raises(UserError, match="checksum does not match"):
        open_store(URL)
    place.write_bytes("zarr.json", b'{"attributes": {}}')
    with pytest.raises(UserError, match="not a saelib store"):
        open_store(URL)
    place.remove(["zarr.json"])
    with pytest.raises(UserError, match="never finished"):
        open_store(URL)


def test_many_keys_need_one_listing(bucket: s3.S3Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    marks = bucket / "place/_published"
    for layer in range(60):
        marks.write_bytes(f"m/layer_{layer}.zarr/{layer:064d}.0123", b"")
    lists = []
    names = s3.S3Folder.names
    monkeypatch.setattr(s3.S3Folder, "names", lambda self: lists.append(str(self)) or names(self))
    urls = [f"{ROOT}/m/layer_{layer}.zarr" for layer in range(61)]
    assert list(read_keys(urls).values()) == [*(f"{layer:064d}" for layer in range(60)), None]
    assert lists == [f"{ROOT}/_published"]


def suite(tmp_path: Path, **settings: object) -> dict:
    np.save(tmp_path / "a.npy", activations(800, 1))
    arrays = {"family": "arrays", "files": {0: str(tmp_path / "a.npy")}}
    return {
        "results": str(tmp_path / "results"),
        "models": {"m": {"domain": "d", "source": arrays, "layers": 0}},
        "extraction": {"tokens": 500, "heldout_tokens": 200, "chunk_rows": 128, "window_rows": 256},
        "init_death": {"d_sae": 64, "k": 4, "seeds": 1, "preprocessings": ["raw"]},
        **settings,
    }


def test_a_suite_on_object_storage_has_the_keys_and_numbers_of_a_local_one(
    bucket: s3.S3Folder, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    from saelib.extract import stage as extract
    from saelib.stats import stage as stats

    results = {}
    for name, where in (("local", {}), ("s3", {"stores": ROOT})):
        config = check_config(suite(tmp_path) | {"results": str(tmp_path / name)} | where, "test")
        plan = make_plan(config)
        plan.save(tmp_path / name / "plan.json")
        for stage, job in ((extract, "extract/m/layers_0-0"), (stats, "stats/m/layers_0-0")):
            stage.run(config, plan.jobs[job])
        results[name] = (tmp_path / name / "stats/m/layer_0.json").read_bytes()
        assert not any(job.startswith(("extract", "stats")) for job in make_plan(config).jobs)
    assert results["local"] == results["s3"]
    assert not (tmp_path / "s3/extract").exists()
    # The credentials are nowhere: not in what was written here or there, nor in what was said.
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    written += [name.encode() + bucket.read_bytes(name) for name in bucket.names()]
    assert not any(word.encode() in text for text in written for word in (SECRET, PUBLIC))
    assert not any(word in text for text in capfd.readouterr() for word in (SECRET, PUBLIC))


def test_an_address_that_is_none_or_holds_credentials_is_a_mistake(tmp_path: Path) -> None:
    for url in (f"s3://{PUBLIC}:{SECRET}@bucket/place", "s3://", "https://bucket", "s3://bucket/a?b=c"):
        with pytest.raises(UserError, match="stores") as error:
            check_config(suite(tmp_path, stores=url), "test")
        assert SECRET not in str(error.value)
    with pytest.raises(UserError, match="address is s3://bucket") as error:
        open_store(f"s3://{PUBLIC}:{SECRET}@bucket/place/m/layer_3.zarr")
    assert SECRET not in str(error.value)


def test_credentials_that_are_missing_or_refused(bucket: s3.S3Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    s3._connect.cache_clear()
    with pytest.raises(UserError, match="no AWS credentials; set AWS_PROFILE"):
        open_store(URL)


def test_what_a_server_says_is_not_repeated() -> None:
    answer = f"<Error><Code>SignatureDoesNotMatch</Code><AWSAccessKeyId>{PUBLIC}</AWSAccessKeyId></Error>"
    with pytest.raises(UserError) as error, s3.reported(URL, "read"):
        raise s3.BaseError(answer)
    assert str(error.value) == f"{URL}: cannot be read (the server says SignatureDoesNotMatch)"


def test_no_such_bucket(bucket: s3.S3Folder) -> None:
    with pytest.raises(UserError, match="the server says NoSuchBucket"):
        open_store("s3://other-bucket/some/m/layer_3.zarr")


def test_a_server_that_goes_away(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    import boto3

    monkeypatch.setattr(s3, "GIVE_UP_AFTER", timedelta(seconds=2))
    with moto() as (endpoint, process):
        use(endpoint, monkeypatch)
        boto3.client("s3").create_bucket(Bucket="bucket")
        publish()
        opened = open_store(URL)

        def lose_the_server() -> None:
            with published_stores({3: URL}, {3: OTHER}) as places:
                process.kill()
                process.wait()
                fill(places[3])

        reads = (lambda: opened.train.block(0, 500), lambda: verify_store(URL), lambda: read_key(URL))
        for attempt in (lose_the_server, *reads):
            with pytest.raises(UserError, match=r"s3://bucket.*no answer from the server"):
                attempt()
    s3._connect.cache_clear()
    assert not any(word in text for text in capfd.readouterr() for word in (SECRET, PUBLIC))


def test_the_command_line(bucket: s3.S3Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    publish()
    for arguments, said in ((["verify", URL], "complete, all checksums right"), (["delete", URL], "deleted")):
        monkeypatch.setattr(sys, "argv", ["saelib", "store", *arguments])
        with pytest.raises(SystemExit) as end:
            command_line()
        assert not end.value.code
        assert said in capsys.readouterr().out
    assert read_key(URL) is None
