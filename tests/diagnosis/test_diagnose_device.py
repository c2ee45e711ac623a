"""A diagnosis on a GPU is the CPU's: the code for GPUs runs on a CPU, and on a GPU if there is one."""

import pytest
import torch

from saelib.activations.rows import ArrayRows
from saelib.diagnosis import device as devices
from saelib.diagnosis.device import usable_device
from saelib.diagnosis.diagnose import Question, diagnose_rows
from saelib.errors import UserError
from tests.conftest import CARD
from tests.diagnosis.conftest import Layer


@pytest.mark.parametrize("on", ["cpu:0", *CARD])
def test_statistics_and_counts_are_the_cpus(on: str, layers: dict[str, Layer]) -> None:
    rows, question = ArrayRows(layers["all ones"][:2000], "rows"), Question(d_sae=512, k=8)
    found, wanted = diagnose_rows(rows, question, device=on), diagnose_rows(rows, question)
    assert found.gamma == pytest.approx(wanted.gamma, rel=1e-6)
    assert found.effective_rank == pytest.approx(wanted.effective_rank, rel=1e-6)
    assert found.measured["raw"] == wanted.measured["raw"]
    assert found.curves["raw"] == wanted.curves["raw"]
    for name, of in wanted.measured.items():  # rounding of a center may move a latent across a bar
        assert found.measured[name].dead_total == pytest.approx(of.dead_total, abs=2 / question.d_sae)
    assert (found.recommendation, found.recommended) == (wanted.recommendation, wanted.recommended)


@pytest.mark.parametrize(("cards", "expected"), [(0, "cpu"), (1, "cuda")])
def test_a_gpu_is_used_if_there_is_one(cards: int, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "count_cards", lambda: cards)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert usable_device("auto") == expected
    assert usable_device("cpu") == "cpu"


def test_a_full_gpu_is_one_sentence(layers: dict[str, Layer], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError

    monkeypatch.setattr("saelib.diagnosis.diagnose.compute_stats", full)
    with pytest.raises(UserError, match=r"mine: statistics and counts of 96 dimensions .* on cuda; the device cpu"):
        diagnose_rows(ArrayRows(layers["all ones"], "mine"), Question(d_sae=64, k=4), device="cuda")
