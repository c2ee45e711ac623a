"""Killed anywhere, a sweep goes on and ends with the bits of an undisturbed one."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from saelib.config import TrainConfig, VariantConfig
from saelib.config.synthetic import SyntheticConfig
from saelib.errors import UserError
from saelib.files.digest import file_sha256
from saelib.files.hashed_tensors import save_hashed
from saelib.files.sealed import seal, unseal
from saelib.synthetic import make_data
from saelib.train import checkpoint, sweep
from saelib.train.batches_from_store import ShuffledBatches

TrainOn = Callable[..., Path]
FILES = ("history.parquet", "sweep.json", "weights.safetensors")
CONFIG = TrainConfig(
    d_sae=48,
    k=4,
    batch_size=128,
    steps=45,
    learning_rates=(1e-3, 1e8, 1e-2),  # the second one diverges
    record_every=7,
    checkpoint_every=10,
    dead_after_examples=1_000,
)
AUXK = VariantConfig.model_validate({"dead_latents": "auxk"})


def toy(tokens: int = 1_000, seed: int = 0) -> np.ndarray:
    return make_data(SyntheticConfig(gamma=3.0, d_in=16, n_features=32, active=3), seed=7).sample(
        tokens, np.random.default_rng(seed)
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in FILES}


class Interrupted(Exception):
    pass


@pytest.fixture
def interrupt_at(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the next trainings stop before a step."""
    step_all = sweep.step_all

    def at(number: int) -> None:
        def stop(trainers: Any, batch: Any, *rest: Any) -> None:
            if trainers[0].steps_done + 1 == number:
                raise Interrupted
            step_all(trainers, batch, *rest)

        monkeypatch.setattr(sweep, "step_all", stop)

    return at


@pytest.fixture
def train(train_on: TrainOn) -> Callable[..., dict[str, bytes]]:
    """Train on the toy data; gives the contents of the result files."""

    def run(config: TrainConfig = CONFIG, variant: VariantConfig = AUXK, **options: Any) -> dict[str, bytes]:
        return contents(train_on(toy(), toy(600, seed=1), config, variant, **options))

    return run


Train = Callable[..., dict[str, bytes]]
Interrupt = Callable[[int], None]


def steps_of(folder: Path) -> list[int]:
    """The steps of the checkpoints anywhere below a folder."""
    return sorted(json.loads(file.read_text())["step"] for file in folder.glob("**/state.json"))


CHILD = """
import os, signal, sys
from pathlib import Path
import numpy as np
from saelib.config import TrainConfig, VariantConfig
from saelib.activations.rows import ArrayRows
from saelib.train import checkpoint, sweep
from saelib.train.start import LayerData, start_sweep
from saelib.train.sweep import Destination, Subject
from saelib.train.training import train_from_store
import torch
torch.set_num_threads(1)

folder, place, number = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
step_all, save_run = sweep.step_all, checkpoint._save_run

def fatal_step(trainers, *rest):
    if place == "step" and trainers[0].steps_done + 1 == number:
        os.kill(os.getpid(), signal.SIGKILL)
    step_all(trainers, *rest)

def fatal_save(run, file):
    record = save_run(run, file)
    if place == "checkpoint" and run.trainer.steps_done == number:
        os.kill(os.getpid(), signal.SIGKILL)
    return record

sweep.step_all, checkpoint._save_run = fatal_step, fatal_save
data = dict(np.load(folder / "data.npz"))
rows = [ArrayRows(data.pop(name), f"toy ({name})", block_rows=512) for name in ("train", "heldout")]
config, variant = TrainConfig.model_validate_json(sys.argv[4]), VariantConfig.model_validate_json(sys.argv[5])
subject = Subject("toy", 4, "test")
child = start_sweep(LayerData(*rows, data), config, variant, subject=subject, seed=3, device="cpu")
train_from_store(child, rows[0], Destination(folder / "out", "k1"))
"""


def test_killed_again_and_again_it_ends_with_the_same_bits(
    train: Train, tmp_path: Path, statistics: Callable[..., dict[str, np.ndarray]]
):
    undisturbed = train(folder="undisturbed")
    np.savez(tmp_path / "data.npz", train=toy(), heldout=toy(600, seed=1), **statistics(toy()))
    early, late = (int(n) for n in np.sort(np.random.default_rng(8).choice(np.arange(11, 45), 2, replace=False)))
    kills = [("step", early), ("checkpoint", early // 10 * 10 + 10), ("step", late)]
    left = []
    for place, number in kills:
        command = [sys.executable, "-c", CHILD, str(tmp_path), place, str(number)]
        command += [CONFIG.model_dump_json(), AUXK.model_dump_json()]
        killed = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False)
        assert killed.returncode == -signal.SIGKILL
        left.append([step for step in steps_of(tmp_path / "out") if step % 10 == 0])
        assert not (tmp_path / "out" / "sweep.json").exists()
    assert all(left)
    assert train() == undisturbed
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == list(FILES)


@pytest.mark.parametrize("at", [1, 10, 11, 12, 31, 45])
def test_interrupted_at_a_step_it_goes_on_from_the_last_checkpoint(
    train: Train, interrupt_at: Interrupt, tmp_path: Path, at: int, monkeypatch: pytest.MonkeyPatch
):
    undisturbed = train(folder="undisturbed")
    interrupt_at(at)
    with pytest.raises(Interrupted):
        train()
    assert steps_of(tmp_path / "out") == [step for step in (10, 20, 30, 40) if step < at][-2:]
    started = []
    batches = ShuffledBatches.batches

    def noted(self: Any, start: int = 0) -> Iterator[Any]:
        started.append(start)
        return batches(self, start)

    monkeypatch.undo()
    monkeypatch.setattr(ShuffledBatches, "batches", noted)
    assert train() == undisturbed
    assert started == [(at - 1) // 10 * 10]


@pytest.mark.parametrize(
    "options",
    [
        {"dead_latents": "ghost_grads"},
        {"dead_latents": {"kind": "resample", "every": 6, "until": 40}},
        {"architecture": "batch_topk", "optimizer": {"kind": "adam", "sparse": True}},
        {"architecture": "abs_topk", "dead_latents": "auxk"},
        {"architecture": {"kind": "relu", "l1": 0.01}, "schedule": {"warmup": 0.3, "decay_from": 0.6}},
        {"architecture": "jumprelu", "clip": 1.0, "preprocessing": "pca"},
        {"optimizer": "sign_sgd", "preprocessing": "rescale", "init": {"firing_rate": 0.1, "tied": False}},
        {"aligned": True, "dead_latents": {"kind": "resample", "every": 6}, "init": {"tied": False}},
        {"k_annealing": {"start": 9, "until": 0.9}, "architecture": "batch_topk"},
        {"bypass": {"rank": 3}, "dead_latents": {"kind": "resample", "every": 6}},
        {"bypass": {"rank": 2}, "optimizer": {"kind": "adam", "sparse": True}, "preprocessing": "pca"},
        {"architecture": {"kind": "jumprelu", "penalty": "tanh"}, "dead_latents": "pre_act"},
        {"init": {"rows": "datapoint", "calibrate": True}, "preprocessing": "center_median"},
        {"frozen": "features", "preprocessing": "ln_center"},
        {"frozen": "b_dec", "project_decoder": False},
    ],
    ids=lambda options: "-".join(map(str, options)),
)
def test_every_method_goes_on_as_if_nothing_had_happened(
    train: Train, interrupt_at: Interrupt, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    variant = VariantConfig.model_validate(options)
    undisturbed = train(variant=variant, folder="undisturbed")
    interrupt_at(29)
    with pytest.raises(Interrupted):
        train(variant=variant)
    monkeypatch.undo()
    assert train(variant=variant) == undisturbed


@pytest.fixture
def stopped(train: Train, interrupt_at: Interrupt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a sweep's checkpoints, at steps 20 and 30, after it stopped."""
    interrupt_at(33)
    with pytest.raises(Interrupted):
        train()
    monkeypatch.undo()
    (folder,) = (tmp_path / "out" / "checkpoints").iterdir()
    assert steps_of(folder) == [20, 30]
    return folder


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing", "state cut", "state flipped", "state gone"])
def test_a_damaged_checkpoint_is_passed_over_with_a_warning(
    train: Train, stopped: Path, damage: str, caplog: pytest.LogCaptureFixture
):
    newest = stopped / "step_00000030"
    file = newest / ("state.json" if damage.startswith("state") else "rate_2.safetensors")
    data = bytearray(file.read_bytes())
    data[-9] ^= 1
    file.write_bytes(data if damage.endswith("flipped") else data[:-40])
    if damage in ("missing", "state gone"):
        file.unlink()
    with caplog.at_level(logging.WARNING, "saelib"):
        result = train()
    assert result == train(folder="undisturbed")
    if damage != "state gone":  # a folder without it is no checkpoint
        assert "damaged" in caplog.text
        assert "step_00000030" in caplog.text


def test_where_every_checkpoint_is_damaged_training_starts_afresh(train: Train, stopped: Path):
    for file in stopped.glob("*/rate_0.safetensors"):
        file.write_bytes(b"")
    assert train() == train(folder="undisturbed")


def test_the_newest_is_told_by_its_step_and_not_by_its_name(
    train: Train, stopped: Path, caplog: pytest.LogCaptureFixture
):
    (stopped / "step_00000020").rename(stopped / "step_99999999")
    (stopped / "step_00000030" / "rate_0.safetensors").write_bytes(b"")
    with caplog.at_level(logging.WARNING, "saelib"):
        train()
    assert [record.args[0].name for record in caplog.records if "damaged" in record.message] == ["step_00000030"]  # type: ignore[index, union-attr]


def test_another_config_starts_afresh_says_why_and_leaves_what_it_found(
    train: Train, stopped: Path, interrupt_at: Interrupt, caplog: pytest.LogCaptureFixture, monkeypatch: Any
):
    other = CONFIG.model_copy(update={"d_sae": 40, "learning_rates": (1e-3,)})
    interrupt_at(15)
    with pytest.raises(Interrupted), caplog.at_level(logging.WARNING, "saelib"):
        train(other, key="k2")
    assert "belongs to another config" in caplog.text
    assert "d_sae: 48 -> 40" in caplog.text
    assert "options.learning_rates: [0.001, 100000000.0, 0.01] -> [0.001]" in caplog.text
    assert "batch_size" not in caplog.text
    assert steps_of(stopped) == [20, 30]  # whoever goes back to the first config goes on from here
    monkeypatch.undo()
    assert train(other, key="k2") == train(other, key="k2", folder="undisturbed")
    assert not stopped.exists()  # published: nothing is left of either


def test_new_code_starts_afresh_too(train: Train, stopped: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "saelib"):
        result = train(key="k2")
    assert "the code or the activations have changed (key k1 -> k2)" in caplog.text
    assert result == train(key="k2", folder="undisturbed")


def test_a_checkpoint_of_another_config_in_this_ones_place_is_refused(train: Train, stopped: Path):
    for state in stopped.glob("*/state.json"):
        content = unseal(state.read_text())
        content["key"] = "foreign"
        content["settings"]["k"] = 5
        state.write_text(seal(json.dumps(content)))
    with pytest.raises(UserError, match=r"step_00000030: belongs to another config \(k: 5 -> 4\)"):
        train()


def test_another_job_of_the_same_sweep_may_end_while_a_checkpoint_is_written(
    train: Train, stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Its controlling process was killed, and the next run trains beside it."""
    undisturbed, save_run = train(folder="undisturbed"), checkpoint._save_run

    def save_beside(run: Any, file: Path) -> dict[str, Any]:
        record = save_run(run, file)
        checkpoint.Checkpoints(tmp_path / "out" / "checkpoints", checkpoint.Identity("k1", {})).remove()
        return record

    monkeypatch.setattr(checkpoint, "_save_run", save_beside)
    assert train() == undisturbed
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_a_full_disk_is_one_clear_error_and_the_earlier_checkpoint_stays(
    train: Train, stopped: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_hashed", full)
    with pytest.raises(UserError, match=r"step_00000040: the checkpoint could not be written.*No space left"):
        train()
    assert sorted(path.name for path in stopped.iterdir()) == ["step_00000020", "step_00000030"]
    monkeypatch.undo()
    assert train() == train(folder="undisturbed")


@pytest.mark.skipif(os.geteuid() != 0 or sys.platform != "linux", reason="mounts a small file system: needs root")
def test_a_disk_that_really_is_full(train: Train, tmp_path: Path):
    folder = tmp_path / "out" / "checkpoints"
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=120k", "tmpfs", folder], capture_output=True).returncode:
        # The test above raises the same error where nothing can be mounted.
        pytest.skip("root without the right to mount (a container): no small file system to fill")
    try:
        with pytest.raises(UserError, match=r"step_00000030: .*No space left on device"):
            train()
        assert steps_of(folder) == [10, 20]
    finally:
        subprocess.run(["umount", folder], check=True)


def test_without_a_number_of_steps_checkpoints_are_minutes_apart(
    train: Train, interrupt_at: Interrupt, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    now = iter(range(0, 10**6, 20))  # every look at the clock takes 20 seconds
    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: next(now)))
    config = CONFIG.model_copy(update={"checkpoint_every": None, "checkpoint_minutes": 2.5})
    interrupt_at(30)
    with pytest.raises(Interrupted):
        train(config)
    assert steps_of(tmp_path / "out") == [16, 24]
    assert config.deciding(AUXK) == CONFIG.deciding(AUXK)


def test_files_are_safetensors_with_the_checksum_that_was_found_while_writing(tmp_path: Path):
    tensors = {
        "W": torch.randn(5, 3).T,
        "count": torch.tensor(7),
        "half": torch.randn(3).half(),
        "mask": torch.tensor([True, False, True]),
        "empty": torch.zeros(0, 2, dtype=torch.float64),
    }
    digest = save_hashed(tensors, tmp_path / "x.safetensors")
    assert digest == file_sha256(tmp_path / "x.safetensors")
    found = load_file(tmp_path / "x.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert {name: t.dtype for name, t in found.items()} == {name: t.dtype for name, t in tensors.items()}
