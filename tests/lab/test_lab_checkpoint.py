"""A training that was killed resumes from its checkpoint with the same bits, and never from one that is not its own."""

from pathlib import Path
from typing import Any

import pytest

from saelib.lab import checkpoint as checkpoints
from saelib.lab.trainees import Class
from tests.lab.cells import Memory, run_into

CONFIG: dict[str, Any] = {
    "kind": "training",
    "data": {"gamma": [2, 5]},
    "sae": {"d_sae": 40, "k": 4},
    "variants": {
        "baseline": {},
        "auxk": {"dead_latents": "auxk"},
        "centered": {"preprocessing": "center_median", "dead_latents": {"kind": "resample", "every": 6}},
    },
    "batch_size": 64,
    "heldout_tokens": 256,
    "dead_after_examples": 256,
    "steps": 20,
    "record_every": 5,
    "seeds": 1,
}
REMEDIES = {name: value for name, value in CONFIG.items() if name != "record_every"} | {
    "kind": "remedies",
    "compare_with": ["baseline"],
}

RECOVERY: dict[str, Any] = {
    "kind": "recovery",
    "data": {"gamma": 5, "signal_scale": 0.1},
    "sae": {"d_sae": 40, "k": 4},
    "batch_size": 64,
    "heldout_tokens": 256,
    "learning_rate": 0.04,
    "steps": 40,
    "seeds": 2,
}


class Killed(Exception): ...


@pytest.fixture(scope="module")
def whole() -> Memory:
    outbox = Memory()
    run_into(outbox, **CONFIG)
    return outbox


def killed_at(step: int, monkeypatch: pytest.MonkeyPatch, config: dict[str, Any] = CONFIG) -> tuple[Memory, list[int]]:
    """Runs until `step` steps are done, with a checkpoint after each; returns what is left, and the later steps."""
    monkeypatch.setattr(checkpoints, "EVERY_SECONDS", 0.0)
    outbox, steps, train = Memory(), [], Class.step

    def mortal(group: Class) -> None:
        if len(steps) == step:
            raise Killed
        steps.append(1)
        train(group)

    monkeypatch.setattr(Class, "step", mortal)
    with pytest.raises(Killed):
        run_into(outbox, **config)
    later: list[int] = []
    monkeypatch.setattr(Class, "step", lambda group: (later.append(1), train(group)))
    return outbox, later


@pytest.mark.parametrize("step", [1, 12])
def test_it_resumes_with_the_same_bits(step: int, whole: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, later = killed_at(step, monkeypatch)
    assert run_into(outbox, **CONFIG) == whole.results
    assert len(later) == CONFIG["steps"] - step
    assert not list(Path(outbox.folder.name).iterdir())  # nothing is left of the checkpoint


def test_comparisons_of_remedies_resume_too(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Memory()
    run_into(whole, **REMEDIES)
    outbox, later = killed_at(12, monkeypatch, REMEDIES)
    assert run_into(outbox, **REMEDIES) == whole.results
    assert len(later) == CONFIG["steps"] - 12


@pytest.mark.parametrize("step", [5, 10, 33, 40, 52])
def test_recoveries_resume_too(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, at, and between two looks, after the first seed, and within the second."""
    whole = Memory()
    run_into(whole, **RECOVERY)
    outbox, later = killed_at(step, monkeypatch, RECOVERY)
    assert run_into(outbox, **RECOVERY) == whole.results
    assert len(later) == 2 * RECOVERY["steps"] - step
    assert not list(Path(outbox.folder.name).iterdir())


@pytest.mark.parametrize("file", [checkpoints.STATE, checkpoints.TENSORS])
def test_a_damaged_checkpoint_is_not_used(file: str, whole: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, later = killed_at(12, monkeypatch)
    (folder,) = Path(outbox.folder.name).iterdir()
    content = bytearray((folder / file).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / file).write_bytes(content)
    assert run_into(outbox, **CONFIG) == whole.results
    assert len(later) == CONFIG["steps"]


def test_the_checkpoint_of_another_config_is_not_used(whole: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, later = killed_at(12, monkeypatch)
    ask = outbox.checkpoint

    def renamed(cells: Any, seed: int) -> checkpoints.Checkpoint:
        found = ask(cells, seed)
        found.key = "another"
        return found

    monkeypatch.setattr(outbox, "checkpoint", renamed)
    assert run_into(outbox, **CONFIG) == whole.results
    assert len(later) == CONFIG["steps"]
