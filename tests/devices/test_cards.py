"""Each job of a machine gets a GPU of its own, whatever numbers it sees, and waits while there is none."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from saelib.devices import cards
from saelib.devices.cards import count_cards, job_device
from saelib.errors import UserError

OTHER_JOB = """
import sys
from saelib.devices import cards
cards.visible_cards = lambda: sys.argv[2].split(",")
print(cards.job_device(sys.argv[1], "train.device"), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def _fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No GPU is held, by this process or another one."""
    monkeypatch.setattr(cards, "_held", {})
    monkeypatch.setattr(cards, "POLL_SECONDS", 0.02)
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Lets this process see some GPUs, by their UUIDs."""
    return lambda *uuids: monkeypatch.setattr(cards, "visible_cards", lambda: list(uuids))


class Job:
    """Another job of the machine, which holds its GPU until it ends."""

    def __init__(self, wanted: str, *uuids: str) -> None:
        call = [sys.executable, "-c", OTHER_JOB, wanted, ",".join(uuids)]
        self._process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.device = self._process.stdout.readline().strip()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def test_two_jobs_get_two_cards_and_a_third_waits_for_one_of_them(seen: Callable[..., None]) -> None:
    first, second = Job("auto", "a", "b"), Job("cuda", "a", "b")
    assert [first.device, second.device] == ["cuda:0", "cuda:1"]
    seen("a", "b")
    assert cards._try_to_lock("a") is None
    first.end()
    assert job_device("auto", "train.device") == "cuda:0"
    second.end()


def test_cards_are_told_apart_by_uuid_and_not_by_number(seen: Callable[..., None]) -> None:
    other = Job("cuda", "b")  # CUDA_VISIBLE_DEVICES=1
    assert other.device == "cuda:0"
    seen("b", "a")
    assert job_device("cuda", "train.device") == "cuda:1"
    other.end()


def test_a_process_keeps_its_card(seen: Callable[..., None]) -> None:
    seen("a", "b", "c")
    assert job_device("cuda:1", "extraction.device") == "cuda:1"
    assert job_device("auto", "train.device") == "cuda:1"
    assert list(cards._held) == ["b"]


def test_a_job_that_waits_says_so_once(seen: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    other = Job("cuda", "a")
    seen("a")

    def end_the_other(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            other.end()

    waits: list[float] = []
    with pytest.MonkeyPatch.context() as patch, caplog.at_level("INFO", "saelib"):
        patch.setattr(cards.time, "sleep", end_the_other)
        assert job_device("cuda", "train.device") == "cuda:0"
    assert len(waits) == 3
    assert [record.getMessage() for record in caplog.records] == [
        "waiting for a GPU: other jobs hold all 1 that this one may use"
    ]


def test_a_model_over_several_cards_takes_all_of_them(seen: Callable[..., None]) -> None:
    seen("b", "a")
    assert job_device("auto", "extraction.device", spread=True) == "cuda:0"
    assert sorted(cards._held) == ["a", "b"]


def test_the_card_that_slurm_gave_is_taken_without_a_lock(
    seen: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    seen("a")
    assert job_device("auto", "train.device") == "cuda:0"
    assert not cards._held
    seen("a", "b")  # an allocation that several jobs of a suite share
    assert job_device("auto", "train.device") == "cuda:0"
    assert list(cards._held) == ["a"]


def test_the_cpu_is_never_waited_for(seen: Callable[..., None]) -> None:
    seen("a")
    assert job_device("cpu", "train.device") == "cpu"
    seen()
    assert job_device("auto", "train.device", float64=True) == "cpu"
    assert not cards._held


@pytest.mark.parametrize(
    ("wanted", "uuids", "words"),
    [
        ("cuda", (), "train.device: cuda: torch finds no GPU here; set `auto`"),
        ("cuda:2", ("a", "b"), "train.device: cuda:2: torch finds 2 GPUs, numbered from 0 here"),
    ],
)
def test_a_card_that_is_missing_is_named(
    seen: Callable[..., None], wanted: str, uuids: tuple[str, ...], words: str
) -> None:
    seen(*uuids)
    with pytest.raises(UserError, match=words):
        job_device(wanted, "train.device")


def test_a_lock_folder_of_somebody_else_is_refused(
    seen: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen("a")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / f"saelib-gpus-{cards.os.getuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="belongs to somebody else"):
        job_device("cuda", "train.device")


@pytest.mark.parametrize(("visible", "count"), [(None, 3), ("", 0), ("-1", 0), ("2", 1), ("0,GPU-1f", 2)])
def test_cards_are_counted_as_jobs_see_them(
    visible: str | None, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_cards(tmp_path) == 0
    for name in ("nvidia0", "nvidia1", "nvidia12", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    assert count_cards(tmp_path) == count


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_real_card_has_a_name_of_its_own() -> None:
    assert len(set(cards.visible_cards())) == torch.cuda.device_count()
