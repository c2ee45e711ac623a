"""`python -m benchmarks gpu` takes the branches that it takes on a GPU: on a CPU, with the kernels interpreted."""

import importlib
from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed (docs/training.md says how to run these tests)")

from benchmarks.gpu import card
from benchmarks.gpu.card import Card
from benchmarks.gpu.methods import methods
from benchmarks.gpu.report import Report, Section
from benchmarks.gpu.runner import run_sections
from benchmarks.gpu.sections import SECTIONS, correctness, one_program, waits
from saelib.sae import choose

FEW = ("topk", "batch_topk, auxk", "relu")


class Event:
    """Stands for `torch.cuda.Event`."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, after: "Event") -> float:
        return 1.0


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> Card:
    """A CPU under another name, so that it counts as a GPU, and functions that only a GPU has."""
    ignored = ("synchronize", "reset_peak_memory_stats", "empty_cache", "set_sync_debug_mode")
    nothing: dict[str, Any] = dict.fromkeys(ignored, lambda *_: None)
    for name, value in (nothing | {"Event": Event, "max_memory_allocated": lambda: 10**9}).items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(choose, "_device", lambda sae: "cuda")
    monkeypatch.setattr(card, "TINY", replace(card.TINY, d_in=16, d_sae=32, k=2, batch_size=8, k_aux=4))
    for section in (correctness, waits, one_program):
        monkeypatch.setattr(section, "methods", lambda: {name: methods()[name] for name in FEW})
    return Card("cpu:0", tiny=True, deadline=float("inf"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here, on which the benchmark itself can run")
def test_every_section_runs_and_no_law_is_broken(pretended: Card) -> None:
    report = Report("a CPU", {}, [Section(name, title) for name, title in SECTIONS.items()])
    lines: list[str] = []
    run_sections(
        report,
        lambda name: importlib.import_module(f"benchmarks.gpu.sections.{name}").rows,
        pretended,
        lines.append,
        lambda _: None,
    )
    assert not report.failed
    assert not report.broken
    assert {section.state for section in report.sections} == {"done"}
    figures = {(section.name, row.name): row.figures for section in report.sections for row in section.rows}
    for name in ("topk", "topk and batch_topk"):
        assert figures["one_program", name]["tensors that the other SAEs change"] == 0  # the kernels ran
    assert figures["sweeps", "2 rates, as one program"]["2 alone / this"]
    assert any("eager alone / this" in found for found in figures.values())
    assert any("step in tf32 / this" in found for found in figures.values())
