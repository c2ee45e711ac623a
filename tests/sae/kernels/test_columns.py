"""Selecting the k largest positive pre-activations of a tile of tokens."""

import numpy as np
import pytest
from numpy.typing import NDArray

from saelib.sae.kernels.cpu import why_unsupported
from tests.sae.kernels.test_select import sorted_selection

pytestmark = pytest.mark.skipif(why_unsupported() is not None, reason="the kernels do not run on this processor")


def draw(kind: str, tokens: int, d_sae: int) -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    hidden = random.standard_normal((tokens, d_sae)).astype(np.float32)
    if kind == "ties":
        hidden = np.round(hidden * 2)
    elif kind == "few positive":
        hidden -= 2.5
    elif kind == "none positive":
        hidden = np.minimum(hidden, 0)
    elif kind == "not finite":
        for value in (np.inf, -np.inf, np.nan):
            hidden[random.random(hidden.shape) < 0.1] = value
    return hidden


@pytest.mark.parametrize(("d_sae", "k"), [(1, 1), (33, 1), (100, 5), (100, 100), (128, 17), (1000, 32)])
@pytest.mark.parametrize("kind", ["random", "ties", "few positive", "none positive", "not finite"])
def test_selected_are_the_largest_positive_entries(d_sae: int, k: int, kind: str) -> None:
    from saelib.sae.kernels.columns import TILE, select_tile, tile_buffers

    for tokens in (TILE, 3):
        hidden, buffers = draw(kind, tokens, d_sae), tile_buffers(8, d_sae, k)
        buffers.hidden[:] = 7
        buffers.hidden[:, :tokens] = hidden.T
        total = select_tile(tokens, buffers)
        values, indices, counts = buffers.codes
        selected = [indices[t, : counts[t]].tolist() for t in range(tokens)]
        assert selected == sorted_selection(hidden, k)
        for t in range(tokens):
            np.testing.assert_array_equal(values[t, : counts[t]], hidden[t, selected[t]])
        np.testing.assert_array_equal(buffers.positive.astype(bool), (hidden > 0).any(0))
        bars = [min(values[t, : counts[t]]) for t in range(tokens) if counts[t] == k]
        assert total == pytest.approx(sum(bars), rel=1e-6)


@pytest.mark.parametrize("tokens", [1, 50, 64])
def test_a_batch_holds_each_token_twice(tokens: int) -> None:
    from saelib.sae.kernels.columns import TILE, empty_batch
    from saelib.sae.kernels.small_pass import fill_run

    x = np.random.default_rng(0).standard_normal((tokens, 5)).astype(np.float32)
    center, batch = np.arange(5, dtype=np.float32), empty_batch(tokens, 5)
    fill_run(x, center, 0, batch)
    np.testing.assert_array_equal(batch.rows[:, :5], x - center)
    assert not batch.rows[:, 5:].any()
    columns = batch.tiles.transpose(0, 2, 1).reshape(-1, 6)
    np.testing.assert_array_equal(columns[:tokens, :5], x - center)
    assert not columns[tokens:, :5].any()
    assert (columns[:, 5] == 1).all()
    assert len(columns) == -(-tokens // TILE) * TILE
