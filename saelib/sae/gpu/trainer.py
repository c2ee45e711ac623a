"""Training of several TopK SAEs on the same batches as one program."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from saelib.config.training import Adam, AuxK
from saelib.sae.autograd.trainer import THRESHOLD_DECAY
from saelib.sae.gpu.auxk import DeadGradients, Room, dead_gradients
from saelib.sae.gpu.batch_select import batch_topk_entries
from saelib.sae.gpu.biases import bias_gradients, move_biases
from saelib.sae.gpu.by_latent import by_latent
from saelib.sae.gpu.decode import decode
from saelib.sae.gpu.entries import Selected, topk_entries
from saelib.sae.gpu.graph import Replayed
from saelib.sae.gpu.member import SweepMember
from saelib.sae.gpu.rates import Rates
from saelib.sae.gpu.rows import Gradients, update_rows
from saelib.sae.gpu.stack import Stack
from saelib.sae.model import SAE
from saelib.sae.products import encoder_product, float32_products
from saelib.sae.trainer import TrainerSettings


def make_members(saes: Sequence[SAE], settings: Sequence[TrainerSettings]) -> list[SweepMember]:
    """A trainer for each SAE, which train as one program when they step together (`saelib.sae.choose.step_all`).

    `saes` are copied. They and their settings differ in weights and learning rate alone.
    """
    members = [SweepMember(own) for own in settings]
    SweepTrainer(Stack.of(saes), saes[0], members)
    return members


class SweepTrainer:
    """SAEs of one shape and method on the same batches; each of `members` is the trainer of one.

    A step is one product for all SAEs, the selection, the decoding, a sort by latent, and the update of each latent's
    rows (README.md). Gradients of the weights are never written to memory, and no sum depends on the order in which
    programs run: the same SAEs, states and batch give the same bits. An SAE's last bits depend on the others.
    """

    def __init__(self, stack: Stack, like: SAE, members: list[SweepMember]) -> None:
        """Takes over `stack`, and `members` in its order; `like` tells the architecture and k."""
        settings = members[0].settings
        assert isinstance(settings.variant.optimizer, Adam)
        assert like.k is not None
        self.stack, self.members, self.k = stack, members, like.k
        self.config, self.variant, self.optimizer = settings.config, settings.variant, settings.variant.optimizer
        self.steps_done = self.examples = 0
        self._auxk = self.variant.dead_latents if isinstance(self.variant.dead_latents, AuxK) else None
        self._room = Room()
        self._rates = Rates([member.settings for member in members], self.optimizer, stack.threshold.device)
        self._latents = torch.arange(1 + stack.parameters.b_enc.numel(), dtype=torch.int32, device=stack.squares.device)
        self._scale = 2 / settings.variance
        self._replayed = Replayed(self._step)
        self._saes = [self._view(i, like) for i in range(len(members))]
        for i, member in enumerate(members):
            member.sweep, member.index = self, i

    @torch.no_grad()
    def step(self, x: Tensor) -> None:
        """One step of every SAE on a batch, float32 [tokens, d_in], contiguous.

        It does not wait for the device, except that with AuxK it counts, now and then, how many latents may be dead.
        """
        dead_after = self.config.dead_after_examples
        if self._auxk and self._room.renew(self.stack.tokens_since_fired, dead_after, self.examples, len(x)):
            self._replayed.forget()
        self.steps_done += 1
        self.examples += len(x)
        with float32_products(self.config.precision == "tf32"):
            self._replayed(x)

    def _step(self, x: Tensor) -> None:
        """The step on the device; all that differs from step to step is read there."""
        self._rates.advance()
        p = self.stack.parameters
        center = self._center()
        centered, drift = x - center, p.b_dec - center
        hidden = self._pre_activations(centered, drift)
        selected = self._select(hidden)
        self._count(selected, len(x))
        g, d_codes = decode(x, selected.entries, p.W_dec, p.b_dec, self._scale / len(x))
        ordered = by_latent(selected.entries, self._latents)
        d_b_enc = bias_gradients(ordered, d_codes).view_as(p.b_enc)
        of_dead = self._of_dead(hidden, g * (-len(x) / self._scale), centered, drift)
        if of_dead is not None:
            d_b_enc = d_b_enc + of_dead.b_enc
        d_b_dec = g.sum(0) - torch.einsum("snd,sn->sd", p.W_enc, d_b_enc)
        gradients = Gradients(x, selected.entries, ordered, g, d_codes, of_dead)
        update_rows(self.stack, gradients, self._rates, self.optimizer, self.variant.project_decoder)
        moves = d_b_enc != 0 if self.optimizer.sparse else None
        move_biases(self.stack, "b_enc", d_b_enc, self._rates, self.optimizer, moves)
        if self.variant.frozen != "b_dec":
            self.stack.b_dec_gradient.copy_(d_b_dec)
            move_biases(self.stack, "b_dec", d_b_dec, self._rates, self.optimizer)

    def _center(self) -> Tensor:
        """The median of all b_dec, [d_in], so an SAE that diverges does not spoil the others; of one, its own."""
        b_dec = self.stack.parameters.b_dec
        return b_dec[0] if len(b_dec) == 1 else b_dec.nan_to_num().sort(0).values[(len(b_dec) - 1) // 2]

    def _pre_activations(self, x: Tensor, b_dec: Tensor) -> Tensor:
        """[tokens, saes, d_sae], by one product; `x` and `b_dec` are relative to a center that all SAEs share."""
        p = self.stack.parameters
        saes, n, d = p.W_enc.shape
        bias = p.b_enc if saes == 1 else p.b_enc - torch.einsum("snd,sd->sn", p.W_enc, b_dec)
        W_enc = p.W_enc.view(saes * n, d).T
        return encoder_product(x, W_enc, bias.flatten(), self.config.precision).view(len(x), saes, n)

    def _select(self, hidden: Tensor) -> Selected:
        if self.variant.architecture.kind == "topk":
            return topk_entries(hidden, self.k)
        selected, smallest = batch_topk_entries(hidden, self.k)
        self.stack.threshold.lerp_(smallest, torch.where(self._rates.step > 1, 1 - THRESHOLD_DECAY, 1.0))
        return selected

    def _of_dead(self, hidden: Tensor, residual: Tensor, x: Tensor, b_dec: Tensor) -> DeadGradients | None:
        """Gradients by AuxK, if latents may be dead; `x` and `b_dec` are relative to the same center."""
        if self._auxk is None or self._room.size == 0:
            return None
        dead = self.stack.tokens_since_fired >= self.config.dead_after_examples
        W_dec = self.stack.parameters.W_dec
        return dead_gradients(hidden, residual, dead, self._room.size, (W_dec, b_dec), x, self._auxk)

    def _count(self, selected: Selected, tokens: int) -> None:
        stack = self.stack
        stack.tokens_since_fired.add_(tokens).masked_fill_(selected.fired, 0)
        stack.tokens_since_positive.add_(tokens).masked_fill_(selected.positive, 0)

    def split(self, members: Sequence[SweepMember]) -> None:
        """Move `members` into one new sweep and the others into another one, each with copies of its states."""
        for group in (list(members), [member for member in self.members if member not in members]):
            sweep = SweepTrainer(self.stack.only([member.index for member in group]), self._saes[0], group)
            sweep.go_to(self.steps_done, self.examples, self._room)

    def go_to(self, steps_done: int, examples: int, room: Room) -> None:
        """Continue with the step after `steps_done`."""
        self.steps_done, self.examples, self._room = steps_done, examples, replace(room)
        self._rates.go_to(steps_done)
        self._replayed.forget()

    def sae(self, i: int) -> SAE:
        """SAE number `i`, whose tensors are views."""
        return self._saes[i]

    def state_dict(self, i: int) -> dict[str, Tensor]:
        """See `Trainer`."""
        rows = torch.contiguous_format
        copies = {name: value.to("cpu", copy=True, memory_format=rows) for name, value in self._live(i).items()}
        numbers = {"steps_done": self.steps_done, "examples": self.examples}
        if self._auxk:
            numbers |= {"auxk_room": self._room.size, "auxk_room_until": self._room.until}
        return copies | {name: torch.tensor(number) for name, number in numbers.items()}

    def load_state_dict(self, i: int, state: dict[str, Tensor]) -> None:
        """See `Trainer`."""
        for name, value in self._live(i).items():
            value.copy_(state[name])
        numbers = {name: int(state.get(name, 0)) for name in ("auxk_room", "auxk_room_until")}
        self.go_to(int(state["steps_done"]), int(state["examples"]), Room(*numbers.values()))

    def _live(self, i: int) -> dict[str, Tensor]:
        threshold = {"threshold": self.stack.threshold[i]} if self._saes[i].architecture == "batch_topk" else {}
        return self.stack.state_of(i) | threshold

    def _view(self, i: int, like: SAE) -> SAE:
        tensors = self.stack.parameters.of(i) | {"threshold": self.stack.threshold[i]}
        return SAE(like.architecture, tensors, self.k)
