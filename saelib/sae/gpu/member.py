"""One SAE of a sweep that trains as one program, as a trainer of its own."""

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Literal

from torch import Tensor

from saelib.sae.model import SAE
from saelib.sae.trainer import TrainerSettings

if TYPE_CHECKING:
    from saelib.sae.gpu.trainer import SweepTrainer


class SweepMember:
    """A `saelib.sae.trainer.Trainer`: SAE number `index` of a `SweepTrainer`, which does the work.

    `saelib.sae.choose.step_all` steps members together, also those that began in different sweeps. A member that steps
    without the others leaves them for a sweep of its own. Neither changes a bit of any member.
    """

    sweep: "SweepTrainer"
    """Set by the sweep that the member joins, like `index`."""
    index: int

    def __init__(self, settings: TrainerSettings) -> None:
        """Makes a member that has not joined a sweep."""
        self.settings = settings

    @property
    def architecture(self) -> Literal["topk", "batch_topk"]:
        """The SAE's architecture, which decides how its latents are selected."""
        return "batch_topk" if self.settings.variant.architecture.kind == "batch_topk" else "topk"

    @property
    def steps_done(self) -> int:
        """Steps so far; the same for all members."""
        return self.sweep.steps_done

    @property
    def examples(self) -> int:
        """Examples seen so far; the same for all members."""
        return self.sweep.examples

    @property
    def tokens_since_fired(self) -> Tensor:
        """See `Trainer`."""
        return self.sweep.stack.tokens_since_fired[self.index]

    @property
    def tokens_since_positive(self) -> Tensor:
        """See `Trainer`."""
        return self.sweep.stack.tokens_since_positive[self.index]

    @property
    def sae(self) -> SAE:
        """The parameters as they are now; not to be changed, and valid until the next step."""
        return self.sweep.sae(self.index)

    def step(self, x: Tensor) -> None:
        """See `Trainer`."""
        step_together([self], x)

    def gradient_norms(self) -> dict[str, float]:
        """See `Trainer`."""
        stack = self.sweep.stack
        W, b_dec = stack.squares[self.index].sum().sqrt(), stack.b_dec_gradient[self.index].norm()
        return {"W": W.item(), "b_dec": b_dec.item()}

    def state_dict(self) -> dict[str, Tensor]:
        """See `Trainer`."""
        return self.sweep.state_dict(self.index)

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See `Trainer`; all members that step together are brought to the same step."""
        self.sweep.load_state_dict(self.index, state)


def step_together(members: Sequence[SweepMember], x: Tensor) -> None:
    """One step of some members, of any sweeps, on the batch `x` [tokens, d_in]; those that are alike make it as one.

    So members of several sweeps join one, and members that are left out, as those that have diverged, leave theirs.
    """
    kinds = {id(sweep): sweep.kind for sweep in {member.sweep for member in members}}
    alike: dict[Hashable, list[SweepMember]] = {}
    for member in members:
        alike.setdefault(kinds[id(member.sweep)], []).append(member)
    for group in alike.values():
        sweeps = {id(member.sweep) for member in group}
        if len(sweeps) > 1 or len(group) < len(group[0].sweep.members):
            group[0].sweep.regroup(group)
        group[0].sweep.step(x)
