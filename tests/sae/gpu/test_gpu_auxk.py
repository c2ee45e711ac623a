"""AuxK over a list of dead latents, against autograd; and the room for the list, against counting at every step."""

import pytest
import torch

from saelib.config.training import AuxK
from saelib.sae.autograd.losses import auxk_loss
from saelib.sae.gpu.auxk import Room, dead_gradients
from saelib.sae.model import SAE

SAES, D_SAE, D_IN, TOKENS = 2, 13, 6, 9


@pytest.mark.parametrize("k", [2, None, 13], ids=["two", "half of d_in", "all"])
@pytest.mark.parametrize("room", [4, 8, 13])
@pytest.mark.parametrize("deads", [(0, 3), (4, 1)])
def test_gradients_are_those_of_autograd(k: int | None, room: int, deads: tuple[int, int]) -> None:
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=random, dtype=torch.float64)

    x, residual = normal(TOKENS, D_IN), normal(TOKENS, SAES, D_IN)
    W_enc, W_dec = normal(SAES, D_IN, D_SAE), normal(SAES, D_SAE, D_IN)
    b_enc, b_dec = normal(SAES, D_SAE), normal(SAES, D_IN)
    hidden = torch.einsum("bsd,sdn->bsn", x[:, None] - b_dec, W_enc) + b_enc
    dead = torch.zeros(SAES, D_SAE, dtype=torch.bool)
    for sae, count in enumerate(deads):
        dead[sae, torch.randperm(D_SAE, generator=random)[:count]] = True
    config = AuxK(kind="auxk", k=k, auxk_coefficient=0.3)
    found = dead_gradients(hidden, residual, dead, room, (W_dec, b_dec), x, config)
    for i in range(SAES):
        tensors = {"W_enc": W_enc[i].clone(), "W_dec": W_dec[i].clone(), "b_enc": b_enc[i].clone(), "b_dec": b_dec[i]}
        sae = SAE("topk", tensors, 2)
        loss = auxk_loss(sae, x, x - residual[:, i], hidden[:, i], dead[i], k or D_IN // 2)
        if not loss.requires_grad:  # nothing is dead
            assert (found.places[i] == -1).all()
            assert not found.b_enc[i].any()
            continue
        (0.3 * loss).backward()
        places = found.places[i].long()
        assert torch.equal(places >= 0, dead[i])
        assert sae.W_enc.grad is not None
        assert sae.W_dec.grad is not None
        torch.testing.assert_close(found.W_enc[places[dead[i]]], sae.W_enc.grad.T[dead[i]])
        torch.testing.assert_close(found.W_dec[places[dead[i]]], sae.W_dec.grad[dead[i]])
        torch.testing.assert_close(found.b_enc[i], sae.b_enc.grad)
        assert found.W_dec[places[dead[i]]].any()


def test_the_room_always_suffices_and_is_seldom_counted() -> None:
    random, room, dead_after = torch.Generator().manual_seed(0), Room(), 800
    silent, counted, sizes, examples = torch.zeros(2, 50, dtype=torch.int64), 0, set(), 0
    rates = torch.linspace(0, 0.2, 50)  # from latents that never fire to those that fire at every fifth step
    for step in range(300):
        tokens = 10 + step % 7
        before = room.until
        room.renew(silent, dead_after, examples, tokens)
        counted += room.until != before
        examples += tokens
        silent = torch.where(torch.rand(2, 50, generator=random) < rates, 0, silent + tokens)
        assert (silent >= dead_after).sum(1).max() <= room.size
        sizes.add(room.size)
    assert counted <= 300 // 5
    assert {0, 50} & sizes == {0}
    assert len(sizes) > 1


def test_a_changed_size_is_told() -> None:
    room, silent = Room(), torch.zeros(1, 8, dtype=torch.int64)
    assert not room.renew(silent, 100, 0, 10)
    silent[0, 3] = 95
    assert not room.renew(silent, 100, 5, 5)  # holds until 12 examples have been seen
    assert room.renew(silent, 100, 10, 10)
    assert room.size == 1
