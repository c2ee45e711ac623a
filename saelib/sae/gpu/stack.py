"""Parameters, moments and counters of several SAEs of one shape, stacked."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from saelib.sae.model import SAE


@dataclass
class Parameters:
    """The parameters of all SAEs, or moments of their gradients. Float32, contiguous; SAEs come first."""

    W_enc: Tensor
    """[saes, d_sae, d_in]; the transpose of an SAE's own."""
    W_dec: Tensor
    """[saes, d_sae, d_in]"""
    b_enc: Tensor
    """[saes, d_sae]"""
    b_dec: Tensor
    """[saes, d_in]"""

    def like(self) -> "Parameters":
        """Zeros of the same shapes."""
        return Parameters(*(torch.zeros_like(getattr(self, own.name)) for own in fields(self)))

    def of(self, i: int, prefix: str = "") -> dict[str, Tensor]:
        """Views of those of SAE `i`, named and oriented as in `SAE`, after a prefix."""
        views = {own.name: getattr(self, own.name)[i] for own in fields(self)}
        return {prefix + name: view.T if name == "W_enc" else view for name, view in views.items()}


@dataclass
class Stack:
    """Everything that a step changes, of all SAEs."""

    parameters: Parameters
    first_moments: Parameters
    second_moments: Parameters
    threshold: Tensor
    """[saes]; the running averages of BatchTopK's bars; 0 for TopK."""
    tokens_since_fired: Tensor
    """int64 [saes, d_sae]"""
    tokens_since_positive: Tensor
    """int64 [saes, d_sae]"""
    squares: Tensor
    """[saes, d_sae]; squared norms of the last step's gradients of each latent's two rows, before projection."""
    b_dec_gradient: Tensor
    """[saes, d_in]; of the last step."""

    @staticmethod
    def of(saes: Sequence[SAE]) -> "Stack":
        """Copies of SAEs of one shape and architecture on one device, at the start of training."""

        def stacked(name: str) -> Tensor:
            tensors = [getattr(sae, name).detach().float() for sae in saes]
            return torch.stack([tensor.T if name == "W_enc" else tensor for tensor in tensors]).contiguous()

        parameters = Parameters(*(stacked(own.name) for own in fields(Parameters)))
        b_enc, b_dec = parameters.b_enc, parameters.b_dec
        has_threshold = saes[0].architecture == "batch_topk"
        threshold = stacked("threshold") if has_threshold else torch.zeros_like(b_enc[:, 0])
        return Stack(
            parameters,
            first_moments=parameters.like(),
            second_moments=parameters.like(),
            threshold=threshold,
            tokens_since_fired=torch.zeros_like(b_enc, dtype=torch.int64),
            tokens_since_positive=torch.zeros_like(b_enc, dtype=torch.int64),
            squares=torch.zeros_like(b_enc),
            b_dec_gradient=torch.zeros_like(b_dec),
        )

    def state_of(self, i: int) -> dict[str, Tensor]:
        """Views of everything that the next step of SAE `i` depends on, named as by `Trainer.state_dict`."""
        counters = {name: getattr(self, name)[i] for name in ("tokens_since_fired", "tokens_since_positive")}
        moments = self.first_moments.of(i, "m.") | self.second_moments.of(i, "v.")
        return self.parameters.of(i) | moments | counters


Place = tuple[int, int]
"""The number of a stack, and that of an SAE in it."""


def regrouped(stacks: Sequence[Stack], groups: Sequence[Sequence[Place]]) -> list[Stack]:
    """New stacks, one for each group, of SAEs from anywhere in `stacks`.

    The old stacks lose their tensors one after another, so only one of them at a time is in memory twice.
    """

    def moved(olds: Sequence[Any], like: type[Parameters] | type[Stack]) -> list[Any]:
        found: dict[str, list[Any]] = {}
        for own in fields(like):
            values = [getattr(old, own.name) for old in olds]
            if isinstance(values[0], Parameters):
                found[own.name] = moved(values, Parameters)
                continue
            found[own.name] = [torch.stack([values[which][i] for which, i in group]) for group in groups]
            for old in olds:
                delattr(old, own.name)
        return [like(**{name: values[number] for name, values in found.items()}) for number in range(len(groups))]

    return moved(stacks, Stack)
