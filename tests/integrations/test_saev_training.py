"""saev's loop, on a stand-in for its SAE: latents die as saev starts them and live as we do.

saev of 2026 is on no package index, so this is the body of its training loop (normalize, forward, project, clip, Adam
with a warm-up) on a module with its parameters and rules, without the auxiliary loss.
"""

import pytest
import torch
from torch import Tensor

import saelib
from saelib.integrations.saev import log_death, start
from tests.integrations.stand_ins import Saev
from tests.integrations.stores import BATCH, D_IN, STORES

STEPS, WARMUP = 120, 20


def trained(x: Tensor, kind: str | None) -> tuple[float, float]:
    """The fractions of dead latents before training and over the last pass."""
    sae = Saev(D_IN, 256, 8)
    if kind:
        start(sae, saelib.fit_preprocessing(kind, x[:8000].numpy()))  # type: ignore[arg-type]
    rows = x[BATCH:]
    with torch.no_grad():
        before = 1 - float((sae.encode(rows).f_x > 0).any(0).float().mean())
    death = log_death(sae, window=len(rows), report=lambda _row: None)
    optimizer = torch.optim.Adam(sae.parameters(), lr=4e-4)
    batches = rows.split(BATCH)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = 4e-4 * min(1, step / WARMUP)
        with torch.no_grad():
            sae.W_dec /= sae.W_dec.norm(dim=1, keepdim=True)
        batch = batches[step % len(batches)]
        (sae(batch) - batch).square().mean().backward()
        gradient = sae.W_dec.grad
        assert gradient is not None
        gradient -= (gradient * sae.W_dec.detach()).sum(1, keepdim=True) * sae.W_dec.detach()
        torch.nn.utils.clip_grad_norm_(sae.parameters(), max_norm=1.0)
        optimizer.step()
        optimizer.zero_grad()
    return before, death.rows[-1]["dead_total"]


@pytest.mark.parametrize(("store", "kind"), [("shifted", "center_median"), ("narrow", "pca")])
def test_latents_live(store: str, kind: str) -> None:
    x = torch.from_numpy(STORES[store]())
    theirs, ours = trained(x, None), trained(x, kind)
    assert min(theirs) > 0.5, (theirs, ours)
    assert max(ours) < 0.05, (theirs, ours)
