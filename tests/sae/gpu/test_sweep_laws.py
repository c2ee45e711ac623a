"""Laws of a sweep as one program: bits, resuming, divergence, unit rows, dead latents, bad values."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="Triton is not installed (docs/training.md says how to run these tests)")

from saelib.sae.autograd.trainer import TorchTrainer
from saelib.sae.choose import step_all
from saelib.sae.gpu.member import SweepMember
from saelib.sae.gpu.trainer import make_members
from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings

Batches = Callable[..., list[Tensor]]
Settings = Callable[..., list[TrainerSettings]]
Start = Callable[..., SAE]
RATES = (1e-3, 3e-3, 1e-2)


def states(members: list[SweepMember]) -> list[dict[str, Tensor]]:
    return [member.state_dict() for member in members]


def assert_same_bits(some: list[dict[str, Tensor]], others: list[dict[str, Tensor]]) -> None:
    for one, other in zip(some, others, strict=True):
        assert one.keys() == other.keys()
        for name, value in one.items():
            assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(
    ("architecture", "dead_latents", "count"),
    [("topk", "none", 2), ("batch_topk", "auxk", 1)],
)
def test_resuming_from_a_state_gives_the_same_bits(
    architecture: str, dead_latents: str, count: int, start: Start, settings: Settings, batches: Batches
) -> None:
    options = {"architecture": architecture, "dead_latents": dead_latents, "schedule": {"warmup": 0.5}}
    own, xs = settings(RATES[:count], **options), batches(3)
    whole, after = (make_members([start(architecture, seed=seed)] * count, own) for seed in range(2))
    for x in xs[:2]:
        step_all(whole, x, threads=1)
    kept = states(whole)
    step_all(whole, xs[2], threads=1)  # must not reach the copies
    for member, state in zip(after, kept, strict=True):
        member.load_state_dict(state)
    assert_same_bits(states(after), kept)
    step_all(after, xs[2], threads=1)
    assert_same_bits(states(whole), states(after))


def test_the_torch_trainer_resumes_from_the_same_state(start: Start, settings: Settings, batches: Batches) -> None:
    own, xs = settings(), batches(3)
    (member,) = make_members([start()], own)
    member.step(xs[0])
    other = TorchTrainer(start(seed=1), own[0])
    other.load_state_dict(member.state_dict())
    assert_same_bits([other.state_dict()], [member.state_dict()])
    other.step(xs[1])
    member.step(xs[1])
    for name, value in member.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-4, atol=1e-6, msg=name)


def different(start: Start, settings: Settings, count: int) -> list[SweepMember]:
    """Members that may train as one program, in sweeps of their own: of both architectures, and no two alike."""
    auxk = {"kind": "auxk", "k": 2, "auxk_coefficient": 0.5}
    options = (
        {"architecture": "batch_topk", "schedule": {"warmup": 0.5}},
        {"dead_latents": "auxk"},
        {"architecture": "batch_topk", "dead_latents": auxk},
    )
    own = [settings((1e-3 * 2**i,), **one)[0] for i, one in enumerate(options[:count])]
    saes = [start(one.variant.architecture.kind, seed=i, center=i) for i, one in enumerate(own)]
    return [make_members([sae], [one])[0] for sae, one in zip(saes, own, strict=True)]


def test_sweeps_become_one_also_of_both_architectures_and_no_bit_depends_on_it(
    start: Start, settings: Settings, batches: Batches
) -> None:
    together, alone, xs = different(start, settings, 3), different(start, settings, 3), batches(4)
    old = together[0].sweep.stack
    for x in xs[:3]:
        step_all(together, x, threads=1)
    assert not vars(old.parameters)  # its memory is free
    assert {id(member.sweep) for member in together} == {id(together[0].sweep)}
    for i in (1, 2):
        assert together[i].sweep.rooms[together[i].index].size > 0  # AuxK is at work
    step_all(together[:2], xs[3], threads=1)  # one leaves
    step_all([together[2]], xs[3], threads=1)
    for member in alone:
        for x in xs:
            member.step(x)
    assert_same_bits(states(together), states(alone))
    assert all(member.gradient_norms() == other.gradient_norms() for member, other in zip(together, alone, strict=True))


def test_a_group_resumes_from_states_of_its_members_in_sweeps_of_their_own(
    start: Start, settings: Settings, batches: Batches
) -> None:
    whole, again, xs = different(start, settings, 2), different(start, settings, 2), batches(3)
    for x in xs[:2]:
        step_all(whole, x, threads=1)
    for member, state in zip(again, states(whole), strict=True):
        member.load_state_dict(state)
    step_all(whole, xs[2], threads=1)
    step_all(again, xs[2], threads=1)
    assert_same_bits(states(whole), states(again))


def test_sweeps_at_different_steps_or_of_different_methods_stay_apart(
    start: Start, settings: Settings, batches: Batches
) -> None:
    (x,) = batches(1)
    others = [
        {"frozen": "b_dec"},
        {"project_decoder": False},
        {"optimizer": {"kind": "adam", "beta1": 0.5}},
    ]
    members = [make_members([start()], settings())[0] for _ in range(2)]
    members += [make_members([start()], settings(**one))[0] for one in others]
    members[0].step(x)
    step_all(members, x, threads=1)
    assert len({id(member.sweep) for member in members}) == len(members)
    assert [member.steps_done for member in members] == [2] + [1] * (len(members) - 1)


def test_members_that_are_left_out_stay_as_they_are(start: Start, settings: Settings, batches: Batches) -> None:
    members, xs = make_members([start()] * 3, settings(RATES)), batches(3)
    step_all(members, xs[0], threads=1)
    before = states(members)
    step_all([members[0], members[2]], xs[1], threads=1)
    assert_same_bits([members[1].state_dict()], [before[1]])
    assert [member.steps_done for member in members] == [2, 1, 2]
    pair = make_members([start()] * 2, settings((RATES[0], RATES[2])))
    for member, state in zip(pair, (before[0], before[2]), strict=True):
        member.load_state_dict(state)
    step_all(pair, xs[1], threads=1)
    assert_same_bits(states(pair), [members[0].state_dict(), members[2].state_dict()])


def test_an_sae_that_diverges_does_not_spoil_the_others(start: Start, settings: Settings, batches: Batches) -> None:
    (x,) = batches(1)
    members = make_members([start()] * 3, settings(RATES))
    alone = make_members([start()] * 2, settings(RATES[:2]))
    members[2].sweep.stack.parameters.W_enc[2] = float("nan")
    members[2].sweep.stack.parameters.b_dec[2] = float("nan")
    step_all(members, x, threads=1)
    step_all(alone, x, threads=1)
    assert_same_bits(states(members[:2]), states(alone))


def test_decoder_rows_stay_unit_and_latents_without_gradient_keep_their_bits(
    start: Start, settings: Settings, batches: Batches
) -> None:
    sae = start()
    sae.b_enc.data[5] = -1000.0
    began = {name: value.clone() for name, value in sae.state_dict().items()}
    (member,) = make_members([sae], settings(frozen="b_dec"))
    for x in batches(3):
        member.step(x)
        torch.testing.assert_close(member.sae.W_dec.norm(dim=1), torch.ones_like(sae.b_enc), rtol=0, atol=2e-6)
    now = member.sae.state_dict()
    assert torch.equal(now["W_enc"][:, 5], began["W_enc"][:, 5])
    assert torch.equal(now["W_dec"][5], began["W_dec"][5])
    assert torch.equal(now["b_enc"][5], began["b_enc"][5])
    assert torch.equal(now["b_dec"], began["b_dec"])
    assert not torch.equal(now["W_dec"][6], began["W_dec"][6])
    assert member.tokens_since_positive[5] == member.tokens_since_fired[5] == member.examples


@pytest.mark.parametrize(
    ("bad", "frozen"), [(float("nan"), "none"), (float("nan"), "b_dec"), (float("inf"), "none"), (1e30, "b_dec")]
)
def test_bad_values_neither_crash_nor_hide(
    bad: float, frozen: str, start: Start, settings: Settings, batches: Batches
) -> None:
    (member,) = make_members([start()], settings(frozen=frozen))
    xs = batches(2)
    xs[0][3] = bad
    for x in xs:
        member.step(x)
    assert not member.sae(xs[1]).isfinite().all()


def test_batches_may_differ_in_size(start: Start, settings: Settings, batches: Batches) -> None:
    (member,), exact = make_members([start()], settings()), TorchTrainer(start().double(), settings()[0])
    for x in (batches(1)[0], batches(1)[0][:5]):
        member.step(x)
        exact.step(x.double())
    torch.testing.assert_close(member.sae.W_dec.double(), exact.sae.W_dec, rtol=0, atol=1e-6)
    assert member.examples == exact.examples
