"""Files appear whole or not at all."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from saelib.errors import UserError, exit_on_user_error
from saelib.files.digest import file_sha256
from saelib.files.publish import published_file, published_folder, remove_drafts
from saelib.files.sealed import read_json, read_sealed, seal, unseal, write_json, write_result


def test_a_failed_writer_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"a": 1})

    def fail() -> None:
        with published_file(tmp_path / "x.json") as draft:
            draft.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert read_json(tmp_path / "x.json") == {"a": 1}
    assert os.listdir(tmp_path) == ["x.json"]


def test_a_failed_writer_leaves_the_old_folder_and_no_draft(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with published_folder(tmp_path / "f") as draft:
            (draft / "a").write_text(content)

    def fail() -> None:
        with published_folder(tmp_path / "f") as draft:
            (draft / "a").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (tmp_path / "f" / "a").read_text() == "second"
    assert os.listdir(tmp_path) == ["f"]


def test_numbers_that_json_lacks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", float("nan"))
    assert os.listdir(tmp_path) == []


def test_reading_what_is_not_there_or_not_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text('{"a": 1')
    with pytest.raises(UserError, match=r"x\.json: not valid JSON"):
        read_json(tmp_path / "x.json")


WRITER = """
import sys, itertools
from pathlib import Path
from saelib.files.sealed import write_json
for i in itertools.count():
    write_json(Path(sys.argv[1]), {"i": i, "pad": "x" * 200000})
"""


def test_killed_at_any_moment_the_file_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    for delay in (0.0, 0.01, 0.03):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(file)])
        while not file.exists():
            assert process.poll() is None, "the writer ended before it was killed"
            time.sleep(0.005)
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert len(json.loads(file.read_text())["pad"]) == 200_000
        remove_drafts(tmp_path)
        assert os.listdir(tmp_path) == ["x.json"]
        file.unlink()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_one_line_and_exit_code_1() -> None:
    code = (
        "from saelib.errors import exit_on_user_error\n"
        "def main():\n"
        "    with open('/dev/full', 'w') as file: file.write('x' * 10000)\n"
        "exit_on_user_error(main)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: No space left on device"


def test_too_little_memory_is_one_line_and_exit_code_1() -> None:
    def allocate() -> None:
        raise MemoryError("Unable to allocate 29.8 GiB")

    with pytest.raises(
        SystemExit, match=r"^error: this needs more memory than there is \(Unable to allocate 29.8 GiB\)$"
    ):
        exit_on_user_error(allocate)


LEFT_BEHIND = """
import os, sys
from pathlib import Path
from saelib.files.publish import published_file
with published_file(Path(sys.argv[1]) / "x.safetensors") as draft:
    (draft.parent / ".tmpTk9pVK").write_bytes(b"what a library writes before it renames")
    os.kill(os.getpid(), 9)
"""


def test_a_kill_leaves_nothing_that_is_not_removed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", LEFT_BEHIND, str(tmp_path)], check=False)
    assert list(tmp_path.rglob(".tmp*"))
    remove_drafts(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("indent", [None, 1])
def test_a_sealed_object_is_still_json_and_every_changed_bit_is_seen(indent: int | None) -> None:
    content = {"a": [1.25, None], "b": {"c": "µ"}}
    text = seal(json.dumps(content, indent=indent))
    assert unseal(text) == content
    assert {name: value for name, value in json.loads(text).items() if name != "checksum"} == content
    data = text.encode()
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1 << place % 8
        with pytest.raises(ValueError, match=r"checksum is wrong|codec can't decode"):
            unseal(changed.decode())
    for length in range(len(data)):
        with pytest.raises(ValueError, match=r"checksum is wrong|codec can't decode"):
            unseal(data[:length].decode())


def test_a_damaged_result_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_result(path, "k", {"rate": 0.25})
    assert read_sealed(path) == {"key": "k", "rate": 0.25}
    path.write_text(path.read_text().replace("0.25", "0.75"))
    with pytest.raises(UserError, match=r"r.json: damaged \(its checksum is wrong\)"):
        read_sealed(path)


def test_what_others_are_writing_is_left_alone(tmp_path: Path) -> None:
    for name in (
        ".layer_2.json.1f.draft",
        ".layer_2.safetensors.2e.draft",
        ".layer_2.zarr.3d.old",
        ".layer_21.json.4c.draft",
    ):
        (tmp_path / name).mkdir()
    remove_drafts(tmp_path, "layer_2.")
    assert os.listdir(tmp_path) == [".layer_21.json.4c.draft"]


def test_safetensors_files_can_be_read_by_whom_other_files_can(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    with published_file(tmp_path / "x.safetensors") as draft:
        save_file({"a": np.zeros(3)}, draft)
    with published_folder(tmp_path / "f") as folder:
        save_file({"a": np.zeros(3)}, folder / "x.safetensors")
    for name in ("x.safetensors", "f/x.safetensors"):
        assert (tmp_path / name).stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize("publish", [published_file, published_folder])
def test_what_safetensors_could_not_write_is_one_clear_sentence(tmp_path: Path, publish) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(UserError, match=r"x: could not be written \(.*No space left"), publish(tmp_path / "x"):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
    assert (tmp_path / "x").read_text() == "old"


@pytest.mark.parametrize("size", [0, 1, 1 << 18, (1 << 20) + 7])
def test_the_digest_of_a_file_is_that_of_its_bytes(tmp_path: Path, size: int) -> None:
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "x").write_bytes(content)
    assert file_sha256(tmp_path / "x") == hashlib.sha256(content).hexdigest()
