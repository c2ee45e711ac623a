"""The selection on a GPU, against sorting."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed (docs/training.md says how to run these tests)")

from saelib.sae.gpu.batch_select import batch_topk_entries
from saelib.sae.gpu.entries import in_a_row, topk_entries
from saelib.sae.gpu.select import NOTHING, select


def check(hidden: Tensor, k: int, widest: int, device: str) -> None:
    """Codes, latents and flags of `hidden` [saes, tokens, n] are those of a stable sort."""
    saes, tokens, n = hidden.shape
    flags = torch.zeros(2, saes * n, dtype=torch.int8, device=device)
    codes, latents = (found.cpu() for found in select(hidden.to(device), k, flags[0], flags[1], widest))
    fired = torch.zeros(saes * n, dtype=torch.int8)
    for token in range(tokens):
        for sae in range(saes):
            values = hidden[sae, token]
            order = values.sort(descending=True, stable=True).indices[:k]
            chosen = order[values[order] > 0].sort().values
            found = len(chosen)
            assert latents[sae, token, :found].tolist() == (sae * n + chosen).tolist()
            assert torch.equal(codes[sae, token, :found], values[chosen])
            assert (latents[sae, token, found:] == NOTHING.value).all()
            assert not codes[sae, token, found:].any()
            fired[sae * n + chosen] = 1
    assert torch.equal(flags[0].cpu(), (hidden > 0).any(1).flatten().to(torch.int8))
    assert torch.equal(flags[1].cpu(), fired)


@pytest.mark.parametrize(
    ("n", "k", "widest"),
    [(16, 4, 64), (37, 1, 64), (37, 7, 64), (37, 7, 16), (100, 5, 16), (9, 9, 64)],
    ids=["even", "one", "odd", "in parts", "in parts of parts", "all"],
)
def test_the_k_largest_are_selected(n: int, k: int, widest: int, device: str) -> None:
    hidden = torch.randn(2, 3, n, generator=torch.Generator().manual_seed(0))
    check(hidden, k, widest, device)


@pytest.mark.parametrize("widest", [64, 16])
def test_of_equal_values_the_first_are_selected(widest: int, device: str) -> None:
    hidden = torch.randint(-1, 3, (2, 4, 37), generator=torch.Generator().manual_seed(0)).float()
    check(hidden, 6, widest, device)


def test_what_is_not_positive_is_never_selected(device: str) -> None:
    tiny = torch.finfo(torch.float32).smallest_normal
    rows = [[-1.0, -0.0, 0.0, -tiny, tiny, -3.0, 1e38, 0.0], [-1.0] * 8, [0.0] * 8, [tiny] * 8]
    check(torch.tensor(rows)[None], 3, 64, device)


def test_infinite_values_are_the_largest_and_nan_larger(device: str) -> None:
    values = torch.tensor([1.0, float("inf"), -float("nan"), 2.0, float("nan"), 3.0, -float("inf"), 4.0])
    flags = torch.zeros(2, 8, dtype=torch.int8, device=device)
    _, latents = select(values.view(1, 1, 8).to(device), 4, flags[0], flags[1])
    assert latents.flatten().tolist() == [1, 2, 4, 7]


def check_batch(hidden: Tensor, k: int, widest: int, device: str) -> None:
    """Entries, flags and bars of the batch `hidden` [saes, tokens, n] are those of a stable sort of each SAE's."""
    saes, tokens, n = hidden.shape
    selected, smallest = batch_topk_entries(hidden.to(device), k, widest)
    entries = selected.entries
    fired, total = torch.zeros(saes, n, dtype=torch.bool), 0
    for sae in range(saes):
        values = hidden[sae].flatten()
        order = values.sort(descending=True, stable=True).indices[: k * tokens]
        assert smallest[sae] == values[order[-1]].clamp(min=0)
        chosen = order[values[order] > 0].sort().values
        fired[sae, chosen % n] = True
        total += len(chosen)
        for token in range(tokens):
            row = sae * tokens + token
            found = slice(int(entries.starts[row]), int(entries.starts[row + 1]))
            expected = chosen[chosen // n == token] % n
            assert entries.latents[found].tolist() == (sae * n + expected).tolist()
            assert torch.equal(entries.codes[found].cpu(), hidden[sae, token, expected])
            assert (entries.rows[found] == row).all()
    assert len(entries.codes) == saes * k * tokens
    assert (entries.latents == NOTHING.value).sum() == len(entries.codes) - total
    assert torch.equal(selected.positive.cpu(), (hidden > 0).any(1))
    assert torch.equal(selected.fired.cpu(), fired)


@pytest.mark.parametrize(("n", "k", "widest"), [(16, 4, 64), (37, 7, 16), (9, 9, 64)], ids=["even", "in parts", "all"])
def test_the_largest_of_a_batch_are_selected(n: int, k: int, widest: int, device: str) -> None:
    hidden = torch.randn(2, 4, n, generator=torch.Generator().manual_seed(0))
    hidden[:, 1] *= 30  # some tokens get many latents, others none
    hidden[:, 2] -= 10
    check_batch(hidden, k, widest, device)


@pytest.mark.parametrize("widest", [64, 16])
def test_of_equal_values_the_first_tokens_and_latents_are_selected(widest: int, device: str) -> None:
    hidden = torch.randint(-1, 3, (2, 5, 19), generator=torch.Generator().manual_seed(0)).float()
    check_batch(hidden, 6, widest, device)


def test_in_a_row_each_token_of_both_architectures_keeps_its_entries(device: str) -> None:
    hidden = torch.randn(3, 4, 19, generator=torch.Generator().manual_seed(0)).to(device)
    hidden[:, 1] -= 10  # empty entries
    first, second = topk_entries(hidden[:1], 3), batch_topk_entries(hidden[1:], 3)[0]
    both = in_a_row(first, second)
    parts = [(first, row, 0) for row in range(4)] + [(second, row, 19) for row in range(8)]
    for row, (part, own, named) in enumerate(parts):
        here, there = (slice(*found.entries.starts[i : i + 2]) for found, i in ((both, row), (part, own)))
        used = part.entries.latents[there] != NOTHING.value
        latents = torch.where(used, part.entries.latents[there] + named, NOTHING.value)
        assert torch.equal(both.entries.latents[here], latents)
        assert torch.equal(both.entries.codes[here], part.entries.codes[there])
        assert (both.entries.rows[here] == row).all()
    assert torch.equal(both.fired, torch.cat([first.fired, second.fired]))
    assert torch.equal(both.positive, torch.cat([first.positive, second.positive]))
