"""AuxK over a list of dead latents, against autograd; and the room for the list, against counting at every step."""

import pytest
import torch

from saelib.config.training import AuxK
from saelib.sae.autograd.losses import auxk_loss
from saelib.sae.gpu.auxk import DeadGradients, Room, dead_gradients, joined
from saelib.sae.model import SAE

D_SAE, D_IN, TOKENS = 13, 6, 9


@pytest.mark.parametrize("k", [2, None, 13], ids=["two", "half of d_in", "all"])
@pytest.mark.parametrize("room", [4, 8, 13])
@pytest.mark.parametrize("deads", [0, 1, 3, 4])
def test_gradients_are_those_of_autograd(k: int | None, room: int, deads: int) -> None:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    x, residual = normal(TOKENS, D_IN), normal(TOKENS, D_IN)
    tensors = {
        "W_enc": normal(D_IN, D_SAE),
        "W_dec": normal(D_SAE, D_IN),
        "b_enc": normal(D_SAE),
        "b_dec": normal(D_IN),
    }
    sae = SAE("topk", tensors, 2)
    with torch.no_grad():
        hidden = sae.hidden_pre(x)
    dead = torch.zeros(D_SAE, dtype=torch.bool)
    dead[torch.randperm(D_SAE, generator=random)[:deads]] = True
    config = AuxK(kind="auxk", k=k, auxk_coefficient=0.3)
    centered = x - tensors["b_dec"]
    found = dead_gradients(hidden, residual, dead, room, tensors["W_dec"], centered, config)
    loss = auxk_loss(sae, x, x - residual, hidden, dead, k or D_IN // 2)
    places = found.places.long()
    assert torch.equal(places >= 0, dead)
    if not loss.requires_grad:  # nothing is dead
        assert not found.b_enc.any()
        return
    (0.3 * loss).backward()
    assert sae.W_enc.grad is not None
    assert sae.W_dec.grad is not None
    torch.testing.assert_close(found.W_enc[places[dead]], sae.W_enc.grad.T[dead])
    torch.testing.assert_close(found.W_dec[places[dead]], sae.W_dec.grad[dead])
    torch.testing.assert_close(found.b_enc, sae.b_enc.grad)
    assert found.W_dec[places[dead]].any()


def test_in_a_row_each_latent_finds_its_own_gradients() -> None:
    def of(places: list[int], first: float, room: int) -> DeadGradients:
        rows = first + torch.arange(room, dtype=torch.float32)[:, None].expand(room, 2)
        b_enc = first + torch.tensor(places, dtype=torch.float32)
        return DeadGradients(torch.tensor(places, dtype=torch.int32), rows, -rows, b_enc)

    parts = [of([0, -1, 1], 10, 2), None, of([-1, 2, 0], 20, 4)]
    found = joined(parts, 3)
    assert found is not None
    places = found.places.tolist()
    assert [place >= 0 for place in places] == [True, False, True, False, False, False, False, True, True]
    kept = [place for place in places if place >= 0]
    assert found.W_enc[kept, 0].tolist() == [10, 11, 22, 20]
    assert found.W_dec[kept, 0].tolist() == [-10, -11, -22, -20]
    assert found.b_enc.tolist() == [10, 9, 11, 0, 0, 0, 19, 22, 20]
    assert joined([None, None], 3) is None


def test_the_room_always_suffices_and_is_seldom_counted() -> None:
    random, room, dead_after = torch.Generator().manual_seed(0), Room(), 800
    silent, counted, sizes, examples = torch.zeros(50, dtype=torch.int64), 0, set(), 0
    rates = torch.linspace(0, 0.2, 50)  # from latents that never fire to those that fire at every fifth step
    for step in range(300):
        tokens = 10 + step % 7
        before = room.until
        room.renew(silent, dead_after, examples, tokens)
        counted += room.until != before
        examples += tokens
        silent = torch.where(torch.rand(50, generator=random) < rates, 0, silent + tokens)
        assert (silent >= dead_after).sum() <= room.size
        sizes.add(room.size)
    assert counted <= 300 // 5
    assert {0, 50} & sizes == {0}
    assert len(sizes) > 1


def test_a_changed_size_is_told() -> None:
    room, silent = Room(), torch.zeros(8, dtype=torch.int64)
    assert not room.renew(silent, 100, 0, 10)
    silent[3] = 95
    assert not room.renew(silent, 100, 5, 5)  # holds until 12 examples have been seen
    assert room.renew(silent, 100, 10, 10)
    assert room.size == 1
