"""Architectures of SAEs: rules that select a token's active latents."""

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from saelib.config.base import Count, Positive, Section, UnitInterval, by_name


class TopK(Section):
    """Selects the k largest positive pre-activations of each token."""

    kind: Literal["topk"] = "topk"


class BatchTopK(Section):
    """Selects the k * tokens largest positive pre-activations of a batch (Bussmann et al. 2024)."""

    kind: Literal["batch_topk"]


class MatryoshkaBatchTopK(Section):
    """Trains nested BatchTopK SAEs, each made of the first latents of the next one (Bussmann et al. 2025).

    The loss is the mean of their reconstruction errors; SAELens takes the sum, which Adam cannot tell apart. Codes are
    those of the whole SAE, which is a `batch_topk` SAE once it is trained.
    """

    kind: Literal["matryoshka_batch_topk"]
    prefixes: Annotated[tuple[Count, ...], Field(min_length=1)] | None = None
    """Numbers of latents of the nested SAEs, ascending and below `d_sae`; the whole SAE is always added. Without it,
    1/32, 3/32, 7/32 and 15/32 of `d_sae`, as in the paper."""

    @model_validator(mode="after")
    def _ascending(self) -> "MatryoshkaBatchTopK":
        if self.prefixes and list(self.prefixes) != sorted(set(self.prefixes)):
            raise ValueError(f"prefixes must ascend (found {list(self.prefixes)})")
        return self

    def widths(self, d_sae: int) -> tuple[int, ...]:
        """Returns the numbers of latents of all nested SAEs; the last is d_sae."""
        inner = self.prefixes or sorted({d_sae * share // 32 for share in (1, 3, 7, 15)} - {0})
        return (*inner, d_sae)


class AbsTopK(Section):
    """Selects the k pre-activations of largest absolute value of each token, with their signs (Zhu et al. 2025)."""

    kind: Literal["abs_topk"]


class ReLU(Section):
    """Keeps every positive pre-activation, with an L1 penalty weighted by decoder norms (Lindsey et al. 2024)."""

    kind: Literal["relu"]
    l1: Positive = 1e-3
    """Coefficient of the penalty sum_i z_i ||d_i||, added to a reconstruction error relative to the data's total
    variance. Raise it for fewer active latents."""


class L0Penalty(Section):
    """Penalizes the distance from a target L0: (L0 / target - 1)^2 (Rajamanoharan et al. 2024)."""

    kind: Literal["l0"] = "l0"


class TanhPenalty(Section):
    """Penalizes sum_i tanh(scale z_i ||d_i|| / s), a smooth count of active latents (Anthropic, January 2025).

    s is the root mean square of the standard deviations of the dimensions, so that `scale` means what it does in that
    update, whose activations are normalized."""

    kind: Literal["tanh"]
    coefficient: Positive = 5e-3
    """Weight of the penalty, relative to the error's. It decides L0: raise it for fewer active latents. The update's
    errors are sums over normalized dimensions, so its lambda_S is d_in times as large."""
    scale: Positive = 4.0
    """Steepness: a latent whose part of the reconstruction is longer than about s / scale counts as one."""
    warmup: UnitInterval = 1.0
    """Fraction of the steps over which the coefficient rises linearly from 0."""


_JumpPenalty = Annotated[L0Penalty | TanhPenalty, Field(discriminator="kind")]
JumpPenaltyConfig = Annotated[_JumpPenalty, BeforeValidator(by_name, _JumpPenalty | Literal["l0", "tanh"])]


class JumpReLU(Section):
    """Keeps pre-activations above a learned threshold, and penalizes their number (Rajamanoharan et al. 2024)."""

    kind: Literal["jumprelu"]
    penalty: JumpPenaltyConfig = L0Penalty()
    """Penalty on the number of active latents: `l0` or `tanh`."""
    target_l0: Positive | None = None
    """Average number of active latents per token that `l0` aims for. Without it, `train.k`."""
    coefficient: Positive = 1.0
    """Weight of the penalty `l0`. Raise it if L0 stays away from its target."""
    bandwidth: Positive = 1e-3
    """Width of the kernel that replaces the derivative of the step at the threshold, in the units of pre-activations.
    Raise it if thresholds do not move."""
    initial_threshold: Positive = 1e-3
    """Threshold of every latent before training."""

    @model_validator(mode="after")
    def _one_penalty(self) -> "JumpReLU":
        if self.penalty.kind == "tanh" and self.target_l0 is not None:
            raise ValueError("penalty: tanh aims at no L0, so target_l0 has no effect; set the penalty's coefficient")
        return self


_Architecture = Annotated[
    TopK | BatchTopK | MatryoshkaBatchTopK | AbsTopK | ReLU | JumpReLU, Field(discriminator="kind")
]
ArchitectureConfig = Annotated[
    _Architecture,
    BeforeValidator(
        by_name,
        _Architecture | Literal["topk", "batch_topk", "matryoshka_batch_topk", "abs_topk", "relu", "jumprelu"],
    ),
]
