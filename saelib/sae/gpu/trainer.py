"""Training of several TopK or BatchTopK SAEs on the same batches as one program."""

from collections.abc import Hashable, Sequence

import torch
from torch import Tensor

from saelib.config.training import Adam, AuxK
from saelib.sae.autograd.trainer import THRESHOLD_DECAY
from saelib.sae.gpu.auxk import DeadGradients, Room, dead_gradients, joined
from saelib.sae.gpu.batch_select import batch_topk_entries
from saelib.sae.gpu.biases import bias_gradients, move_biases
from saelib.sae.gpu.by_latent import by_latent
from saelib.sae.gpu.decode import decode
from saelib.sae.gpu.entries import Selected, in_a_row, topk_entries
from saelib.sae.gpu.graph import Replayed
from saelib.sae.gpu.member import SweepMember
from saelib.sae.gpu.rates import Rates
from saelib.sae.gpu.rows import Gradients, update_rows
from saelib.sae.gpu.stack import Stack, regrouped
from saelib.sae.model import SAE
from saelib.sae.products import encoder_product, float32_products
from saelib.sae.trainer import TrainerSettings


def make_members(saes: Sequence[SAE], settings: Sequence[TrainerSettings]) -> list[SweepMember]:
    """A trainer for each SAE, which train as one program when they step together (`saelib.sae.choose.step_all`).

    `saes` are copied. They are of one architecture, but may differ in their weights, and their settings in what
    `SweepTrainer` says.
    """
    members = [SweepMember(own) for own in settings]
    SweepTrainer(Stack.of(saes), members)
    return members


class SweepTrainer:
    """SAEs of one shape on the same batches; each of `members` is the trainer of one.

    The members' settings may differ in architecture (TopK or BatchTopK), learning rate, schedule and AuxK, and in the
    seed of their weights.

    A step decodes, sorts by latent and updates each latent's rows for all SAEs at once, after it has selected for those
    of each architecture (README.md). Gradients of the weights are never written to memory, and no sum depends on the
    order in which programs run or on the other SAEs: an SAE has the bits that it has when it trains alone.
    """

    def __init__(self, stack: Stack, members: Sequence[SweepMember]) -> None:
        """Takes over `stack`, and `members` in its order: those of TopK come first."""
        settings = members[0].settings
        assert isinstance(settings.variant.optimizer, Adam)
        self.stack, self.members = stack, list(members)
        self.topk_saes = sum(member.architecture == "topk" for member in members)
        """Number of TopK SAEs. The others, after them, are BatchTopK SAEs."""
        self.config, self.variant, self.optimizer = settings.config, settings.variant, settings.variant.optimizer
        self.steps_done = self.examples = 0
        self._auxk = [_auxk_of(member.settings) for member in members]
        self.rooms = [Room() for _ in members]
        """Bounds of each SAE's dead latents, which only AuxK needs."""
        self._rates = Rates([member.settings for member in members], self.optimizer, stack.threshold.device)
        self._latents = torch.arange(1 + stack.parameters.b_enc.numel(), dtype=torch.int32, device=stack.squares.device)
        self._scale = 2 / settings.variance
        self._replayed = Replayed(self._step)
        self._saes = [self._view(i) for i in range(len(members))]
        self._method = self._shared()
        for i, member in enumerate(members):
            member.sweep, member.index = self, i

    def _shared(self) -> Hashable:
        config, variant = self.config, self.variant
        method = variant.project_decoder, variant.frozen, self.optimizer.model_dump_json()
        sizes = *self.stack.parameters.W_dec.shape[1:], config.k, config.steps, config.dead_after_examples
        return *method, *sizes, config.precision, self._scale

    @property
    def kind(self) -> Hashable:
        """Equal for sweeps that can become one: everything that their members share."""
        return self._method, self.steps_done, self.examples

    @torch.no_grad()
    def step(self, x: Tensor) -> None:
        """One step of every SAE on a batch, float32 [tokens, d_in], contiguous.

        It does not wait for the device, except that with AuxK it counts, now and then, how many latents may be dead.
        """
        if self._renew_rooms(len(x)):
            self._replayed.forget()
        self.steps_done += 1
        self.examples += len(x)
        with float32_products(self.config.precision == "tf32"):
            self._replayed(x)

    def _renew_rooms(self, tokens: int) -> bool:
        """Count again where it is time to; returns whether any room has changed."""
        silent, dead_after = self.stack.tokens_since_fired, self.config.dead_after_examples
        rooms = [(room, silent[i]) for i, room in enumerate(self.rooms) if self._auxk[i]]
        changed = [room.renew(own, dead_after, self.examples, tokens) for room, own in rooms]
        return any(changed)

    def _step(self, x: Tensor) -> None:
        """The step on the device; all that differs from step to step is read there."""
        self._rates.advance()
        p = self.stack.parameters
        centered = x - p.b_dec[:, None]
        hidden = self._pre_activations(centered)
        selected = self._select(hidden)
        self._count(selected, len(x))
        g, d_codes = decode(x, selected.entries, p.W_dec, p.b_dec, self._scale / len(x))
        ordered = by_latent(selected.entries, self._latents)
        d_b_enc = bias_gradients(ordered, d_codes).view_as(p.b_enc)
        of_dead = self._of_dead(hidden, g, centered)
        if of_dead is not None:
            d_b_enc = d_b_enc + of_dead.b_enc.view_as(d_b_enc)
        d_b_dec = torch.stack([g[i].sum(0) - p.W_enc[i].T @ d_b_enc[i] for i in range(len(g))])
        gradients = Gradients(x, selected.entries, ordered, g, d_codes, of_dead)
        update_rows(self.stack, gradients, self._rates, self.optimizer, self.variant.project_decoder)
        move_biases(self.stack, "b_enc", d_b_enc, self._rates, self.optimizer, self.optimizer.sparse)
        if self.variant.frozen != "b_dec":
            self.stack.b_dec_gradient.copy_(d_b_dec)
            move_biases(self.stack, "b_dec", d_b_dec, self._rates, self.optimizer)

    def _pre_activations(self, centered: Tensor) -> Tensor:
        """[saes, tokens, d_sae] of x - b_dec, [saes, tokens, d_in].

        A product of each SAE, and not one of all: its bits would depend on how many there are.
        """
        p, precision = self.stack.parameters, self.config.precision
        hidden = centered.new_empty(*centered.shape[:2], p.b_enc.shape[1])
        for i, out in enumerate(hidden):
            encoder_product(centered[i], p.W_enc[i].T, p.b_enc[i], precision, out)
        return hidden

    def _select(self, hidden: Tensor) -> Selected:
        """Selects in `hidden` [saes, tokens, d_sae] by the SAEs' own architectures; moves BatchTopK's thresholds."""
        first, k = self.topk_saes, self.config.k
        if first == len(hidden):
            return topk_entries(hidden, k)
        by_batch, smallest = batch_topk_entries(hidden[first:], k)
        before = self.stack.threshold[first:]
        later = before + (1 - THRESHOLD_DECAY) * (smallest - before)
        before.copy_(torch.where(self._rates.step > 1, later, smallest))
        return in_a_row(topk_entries(hidden[:first], k), by_batch) if first else by_batch

    def _of_dead(self, hidden: Tensor, g: Tensor, centered: Tensor) -> DeadGradients | None:
        """Gradients by AuxK, if latents may be dead; `g` and `centered` are [saes, tokens, d_in]."""
        stack, dead_after = self.stack, self.config.dead_after_examples
        to_residual = -g.shape[1] / self._scale
        parts: list[DeadGradients | None] = [None] * len(self.members)
        for i, (auxk, room) in enumerate(zip(self._auxk, self.rooms, strict=True)):
            if auxk and room.size:
                dead = stack.tokens_since_fired[i] >= dead_after
                W_dec, residual = stack.parameters.W_dec[i], g[i] * to_residual
                parts[i] = dead_gradients(hidden[i], residual, dead, room.size, W_dec, centered[i], auxk)
        return joined(parts, hidden.shape[2])

    def _count(self, selected: Selected, tokens: int) -> None:
        stack = self.stack
        stack.tokens_since_fired.add_(tokens).masked_fill_(selected.fired, 0)
        stack.tokens_since_positive.add_(tokens).masked_fill_(selected.positive, 0)

    def regroup(self, members: Sequence[SweepMember]) -> None:
        """Move `members`, of this and other sweeps, into one new sweep; those left over get a new one for each old one.

        All must be at the same step. The old sweeps are of no use afterwards.
        """
        sweeps = list({id(member.sweep): member.sweep for member in members}.values())
        left = [[member for member in sweep.members if member not in members] for sweep in sweeps]
        groups = [sorted(members, key=lambda own: own.architecture != "topk"), *(group for group in left if group)]
        places = [[(sweeps.index(member.sweep), member.index) for member in group] for group in groups]
        rooms = [[member.sweep.rooms[member.index] for member in group] for group in groups]
        for sweep in sweeps:
            sweep.release()
        stacks = regrouped([sweep.stack for sweep in sweeps], places)
        for group, stack, own in zip(groups, stacks, rooms, strict=True):
            sweep = SweepTrainer(stack, group)
            sweep.rooms = own
            sweep.go_to(self.steps_done, self.examples)

    def release(self) -> None:
        """Let go of everything that refers to the stack, which is about to be taken apart."""
        self._saes.clear()
        self._replayed.forget()

    def go_to(self, steps_done: int, examples: int) -> None:
        """Continue with the step after `steps_done`."""
        self.steps_done, self.examples = steps_done, examples
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
        if self._auxk[i]:
            numbers |= {"auxk_room": self.rooms[i].size, "auxk_room_until": self.rooms[i].until}
        return copies | {name: torch.tensor(number) for name, number in numbers.items()}

    def load_state_dict(self, i: int, state: dict[str, Tensor]) -> None:
        """See `Trainer`."""
        for name, value in self._live(i).items():
            value.copy_(state[name])
        self.rooms[i] = Room(*(int(state.get(name, 0)) for name in ("auxk_room", "auxk_room_until")))
        self.go_to(int(state["steps_done"]), int(state["examples"]))

    def _live(self, i: int) -> dict[str, Tensor]:
        threshold = {"threshold": self.stack.threshold[i]} if i >= self.topk_saes else {}
        return self.stack.state_of(i) | threshold

    def _view(self, i: int) -> SAE:
        tensors = self.stack.parameters.of(i) | {"threshold": self.stack.threshold[i]}
        return SAE(self.members[i].architecture, tensors, self.config.k)


def _auxk_of(settings: TrainerSettings) -> AuxK | None:
    method = settings.variant.dead_latents
    return method if isinstance(method, AuxK) else None
