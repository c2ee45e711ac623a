"""Every method of training, on every device that torch has: the reference for faster ones."""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import Parameter

from saelib.config.training import VariantConfig
from saelib.errors import UserError
from saelib.sae.aligned import align, align_gradients
from saelib.sae.autograd import forward
from saelib.sae.autograd.dead_soon import DeadSoon
from saelib.sae.autograd.forward import Forward
from saelib.sae.autograd.losses import auxk_loss, ghost_loss, pre_act_loss, reconstruction_loss
from saelib.sae.autograd.optimizer import make_optimizer
from saelib.sae.autograd.resample import resample
from saelib.sae.model import SAE
from saelib.sae.products import float32_products
from saelib.sae.schedule import k_at, rate_at, risen
from saelib.sae.trainer import TrainerSettings

THRESHOLD_DECAY = 0.9
"""Decay of the running average of `batch_topk`'s bar, which spans about 10 batches: one has little noise, and the SAE
moves."""
UNIT = 8
"""A decoder row counts as unit while its norm is within this many units of rounding of 1, so that one which nothing
moves keeps its bits."""


class TorchTrainer:
    """Minimizes ||x - x_hat||^2 / variance and the penalties of the variant; see `saelib.sae.trainer.Trainer`.

    A step is: forward, counters, loss, backward, projection of W_dec's gradient, clipping, optimizer, unit decoder
    rows, and resampling, which happens at some steps only. An aligned SAE's gradients are converted first, and its
    encoder is aligned last.

    Gradients of what is frozen are not computed, and count as 0 in `gradient_norms`.

    With `precision="tf32"` an NVIDIA GPU rounds the factors of all products of a step to 10 bits of mantissa; other
    devices do not. With `precision="bfloat16"` parameters, gradients and losses stay float32, and only the factors of
    the encoder's product are rounded, on every device. When its output was rounded too, held-out errors changed by up
    to 0.6 % (TopK, BatchTopK, ReLU) and 1.2 % (JumpReLU), in either direction (synthetic data, d_in 128, d_sae 1,024,
    k 16, 500 steps, two seeds, on a CPU).
    """

    def __init__(self, sae: SAE, settings: TrainerSettings) -> None:
        """Take over `sae`, whose architecture is the variant's; it is trained in place, on its own device.

        Raises:
            UserError: if the variant resamples latents that it freezes.
        """
        variant = settings.variant
        if variant.dead_latents.kind == "resample" and variant.frozen in ("decoder", "features"):
            raise UserError(
                f"dead_latents: resample moves directions of latents, which frozen: {variant.frozen} forbids; "
                "use one of them"
            )
        self.settings, self.config, self.variant = settings, settings.config, variant
        self._sae = sae
        self.steps_done = self.examples = 0
        self.tokens_since_fired = torch.zeros_like(sae.b_enc, dtype=torch.int64, requires_grad=False)
        self.tokens_since_positive = torch.zeros_like(self.tokens_since_fired)
        self._trained = _trained_parameters(sae, variant)
        self._optimizer = make_optimizer(self._trained, variant.optimizer)
        self._unit = (settings.variance / sae.d_in) ** 0.5  # the root mean square of the standard deviations
        self._norms = torch.zeros(2, device=sae.b_enc.device)
        self._dead_soon = DeadSoon(self.config.dead_after_examples) if sae.b_enc.is_cuda else None

    @property
    def sae(self) -> SAE:
        """The parameters as they are now."""
        return self._sae

    @property
    def dead(self) -> Tensor:
        """Latents that count as dead during training: boolean [d_sae]."""
        return self.tokens_since_fired >= self.config.dead_after_examples

    def step(self, x: Tensor) -> None:
        """See `Trainer`."""
        with float32_products(self.config.precision == "tf32"):
            self._step(x)

    def _step(self, x: Tensor) -> None:
        self.steps_done += 1
        result = self._forward(x)
        inner = [self._sae.add_bypass(x_hat, x) for x_hat in result.inner]
        result = replace(result, x_hat=self._sae.add_bypass(result.x_hat, x), inner=inner)
        self._count(result, len(x))
        for parameter in self._trained.values():
            parameter.grad = None
        self._loss(x, result).backward()
        self._update()
        self._now_and_then(x, result)

    def _forward(self, x: Tensor) -> Forward:
        sae, architecture, precision = self._sae, self.variant.architecture, self.config.precision
        match architecture.kind:
            case "topk" | "abs_topk":
                keep = self.variant.dead_latents.kind in ("auxk", "ghost_grads", "pre_act")
                return forward.topk_forward(sae, x, precision, keep, self._k())
            case "batch_topk":
                return forward.batch_topk_forward(sae, x, precision, self._k())
            case "matryoshka_batch_topk":
                widths = architecture.widths(sae.d_sae)[:-1]
                return forward.batch_topk_forward(sae, x, precision, self._k(), widths)
            case "relu":
                return forward.relu_forward(sae, x, precision, architecture)
            case "jumprelu":
                return forward.jumprelu_forward(sae, x, precision, architecture, self._jumprelu_penalty)

    def _jumprelu_penalty(self, pre: Tensor) -> Tensor:
        architecture = self.variant.architecture
        assert architecture.kind == "jumprelu"
        penalty = architecture.penalty
        if penalty.kind == "l0":
            return forward.l0_penalty(self._sae, pre, architecture, architecture.target_l0 or float(self.config.k))
        weight = penalty.coefficient * risen(self.steps_done, self.config.steps, penalty.warmup)
        return weight * forward.tanh_penalty(self._sae, pre, architecture.bandwidth, penalty.scale / self._unit)

    def _k(self) -> int:
        """Latents of a token in this step."""
        sae = self._sae
        assert sae.k is not None
        return k_at(self.steps_done, self.config.steps, sae.k, min(sae.d_in, sae.d_sae), self.variant.k_annealing)

    def _count(self, result: Forward, tokens: int) -> None:
        self.examples += tokens
        self.tokens_since_fired.add_(tokens).masked_fill_(result.fired, 0)
        self.tokens_since_positive.add_(tokens).masked_fill_(result.positive, 0)

    def _loss(self, x: Tensor, result: Forward) -> Tensor:
        nested = (*result.inner, result.x_hat)
        mse = torch.stack([reconstruction_loss(x, x_hat, self.settings.variance) for x_hat in nested]).mean()
        loss = mse + result.penalty
        dead_latents, hidden_pre = self.variant.dead_latents, result.hidden_pre
        if dead_latents.kind == "pre_act" and hidden_pre is not None:
            return loss + dead_latents.coefficient / self._unit * pre_act_loss(self._sae, x, hidden_pre)
        if hidden_pre is None or dead_latents.kind not in ("auxk", "ghost_grads"):
            return loss
        soon = self._dead_soon
        among = None if soon is None else soon.latents(self.tokens_since_fired, self.examples, len(x))
        if self.examples < self.config.dead_after_examples:
            return loss
        if dead_latents.kind == "auxk":
            k_aux = dead_latents.k or self._sae.d_in // 2
            auxiliary = auxk_loss(self._sae, x, result.x_hat, hidden_pre, self.dead, k_aux, among)
            return loss + dead_latents.auxk_coefficient * auxiliary
        return loss + ghost_loss(self._sae, x, result.x_hat, hidden_pre, self.dead, mse.detach(), among)

    @torch.no_grad()
    def _update(self) -> None:
        sae, parameters = self._sae, self._trained.values()
        for parameter in parameters:
            if parameter.grad is None:  # no loss reached it
                parameter.grad = torch.zeros_like(parameter)
        self._norms = torch.stack([_norm(sae.W_enc, sae.W_dec), _norm(sae.b_dec)])
        aligned = self.variant.aligned and sae.W_enc.grad is not None
        if aligned:
            align_gradients(sae)
        if self.variant.project_decoder and sae.W_dec.grad is not None:
            along = torch.linalg.vecdot(sae.W_dec.grad, sae.W_dec)
            sae.W_dec.grad.addcmul_(along[:, None], sae.W_dec, value=-1)
        if self.variant.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, self.variant.clip)
        rate = rate_at(self.steps_done, self.config.steps, self.settings.learning_rate, self.variant.schedule)
        self._optimizer.step(self.steps_done, rate)
        if "W_dec" in self._trained:
            norms = torch.linalg.vector_norm(sae.W_dec, dim=1, keepdim=True)
            off = (norms - 1).abs() > UNIT * torch.finfo(norms.dtype).eps
            sae.W_dec.div_(torch.where(off, norms, 1))
        if aligned:
            align(sae.W_enc, sae.W_dec)
        if "threshold" in self._trained:
            sae.threshold.clamp_(min=0)  # below 0 a JumpReLU would let negative pre-activations through

    @torch.no_grad()
    def _now_and_then(self, x: Tensor, result: Forward) -> None:
        if result.smallest is not None:
            threshold = self._sae.threshold
            threshold.lerp_(result.smallest.to(threshold), 1 - THRESHOLD_DECAY if self.steps_done > 1 else 1.0)
        dead_latents, step = self.variant.dead_latents, self.steps_done
        if (
            dead_latents.kind != "resample"
            or step % dead_latents.every
            or step > (dead_latents.until or self.config.steps // 2)
        ):
            return
        seed = np.random.SeedSequence([self.settings.seed, step]).generate_state(1)
        generator = torch.Generator().manual_seed(int(seed[0]))
        losses = (x - result.x_hat).square().sum(1)
        latents = resample(self._sae, x, losses, self.dead, self._optimizer.moments, generator)
        if self.variant.aligned:
            align(self._sae.W_enc, self._sae.W_dec)
        if self.variant.architecture.kind == "jumprelu":
            self._sae.threshold[latents] = self.variant.architecture.initial_threshold
        self.tokens_since_fired[latents] = 0
        self.tokens_since_positive[latents] = 0

    def gradient_norms(self) -> dict[str, float]:
        """See `Trainer`."""
        W, b_dec = self._norms.tolist()
        return {"W": W, "b_dec": b_dec}

    def state_dict(self) -> dict[str, Tensor]:
        """See `Trainer`. In addition to the SAE's own tensors: moments, counters of tokens, `steps_done`, `examples`.

        What is drawn during training follows from the seed and the step; of `batch_topk`, `threshold` is the running
        average of the smallest selected value.
        """
        counts = {"steps_done": torch.tensor(self.steps_done), "examples": torch.tensor(self.examples)}
        rows = torch.contiguous_format
        live = {name: value.detach() for name, value in self._live().items()}
        if not self._sae.b_enc.is_cuda:
            return {name: value.to("cpu", copy=True, memory_format=rows) for name, value in live.items()} | counts
        # To pinned memory, all at the same time; the host waits once.
        copies = {name: value.contiguous().to("cpu", non_blocking=True) for name, value in live.items()}
        torch.cuda.synchronize(self._sae.b_enc.device)
        return copies | counts

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """See `Trainer`."""
        for name, value in self._live().items():
            value.copy_(state[name])
        self.steps_done, self.examples = int(state["steps_done"]), int(state["examples"])
        if self._dead_soon is not None:
            self._dead_soon = DeadSoon(self.config.dead_after_examples)

    def _live(self) -> dict[str, Tensor]:
        counters = {"tokens_since_fired": self.tokens_since_fired, "tokens_since_positive": self.tokens_since_positive}
        return self._sae.state_dict() | self._optimizer.moments | counters


def _trained_parameters(sae: SAE, variant: VariantConfig) -> dict[str, Parameter]:
    """The parameters that training may move; the others stop asking for gradients."""
    for name, parameter in sae.named_parameters():
        frozen = {
            "none": False,
            "b_dec": name == "b_dec",
            "decoder": name == "W_dec",
            "features": name != "b_dec",
        }
        parameter.requires_grad_(not frozen[variant.frozen])
    return {name: parameter for name, parameter in sae.named_parameters() if parameter.requires_grad}


def _norm(*parameters: Parameter) -> Tensor:
    """L2 norm of all the gradients together; parameters without one count as 0."""
    norms = [p.new_zeros(()) if p.grad is None else torch.linalg.vector_norm(p.grad) for p in parameters]
    return torch.linalg.vector_norm(torch.stack(norms))
