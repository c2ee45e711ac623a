"""Writes a remedy into the weights of an SAE that reads the model's own activations."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from saelib.errors import UserError
from saelib.preprocessing.transform import Preprocessing

if TYPE_CHECKING:
    from saelib.diagnosis.result import Diagnosis


@dataclass(frozen=True)
class StartingPoint:
    """A center and, if the remedy is whitening, the map z = (x - center) whiten and its inverse, all in float64."""

    center: Tensor
    """[d_in]; b_dec starts here."""
    whiten: Tensor | None = None
    """[d_in, d_in], symmetric. Directions without variance are mapped to 0."""
    unwhiten: Tensor | None = None
    """[d_in, d_in], its pseudo-inverse."""


def starting_point(found: "Diagnosis | Preprocessing", d_in: int) -> StartingPoint | None:
    """Reads the remedy of a diagnosis, or a preprocessing; None if it changes nothing.

    Whitening is symmetric (ZCA): V diag(1/sqrt(eigenvalues)) V^T instead of the PCA's V diag(1/sqrt(eigenvalues)). The
    two differ by a rotation, which a random dictionary does not notice, and the symmetric one also fits d_in weights if
    the PCA dropped empty directions.

    Args:
        found: The result of `saelib.diagnose` or `saelib.fit_preprocessing`.
        d_in: Width of the SAE's input.

    Raises:
        UserError: If the widths differ, or the preprocessing normalizes each token, which no weights can do.
    """
    preprocessing = found if isinstance(found, Preprocessing) else found.preprocessing
    if not isinstance(preprocessing, Preprocessing):
        raise UserError(
            f"start needs the result of saelib.diagnose or saelib.fit_preprocessing, not {type(found).__name__}"
        )
    if preprocessing.d_in != d_in:
        raise UserError(
            f"the activations that were diagnosed have {preprocessing.d_in} dimensions, but the SAE reads {d_in}"
        )
    if preprocessing.token_norm != "none":
        raise UserError(
            f"this preprocessing begins with '{preprocessing.token_norm}' of each token, which no weights can do; "
            "should be a center, with or without whitening"
        )
    center = torch.from_numpy(preprocessing.center).double()
    if preprocessing.scale is None or preprocessing.inverse is None:
        return StartingPoint(center) if bool(center.any()) else None
    scale, inverse = (torch.from_numpy(of).double() for of in (preprocessing.scale, preprocessing.inverse))
    if scale.ndim == 1:
        return StartingPoint(center, scale.diag(), inverse.diag())
    directions = torch.nn.functional.normalize(scale, dim=0)
    return StartingPoint(center, scale @ directions.T, directions @ inverse)


def write_start(point: StartingPoint, W_enc: Tensor, W_dec: Tensor, b_dec: Tensor, *, unit_decoder: bool) -> None:
    """Writes a starting point into an SAE's parameters, in place; check them with `refuse_started` first.

    To whiten, W_enc becomes M W_enc, which computes from x - center what it computed from z = (x - center) M, and W_dec
    becomes W_dec M^-1.

    With `unit_decoder`, the decoder's rows are then scaled to norm 1, for libraries that keep them there, and the
    encoder by the mean norm that they had. So codes have about the right size, while the order of the pre-activations,
    which selects latents, stays that of whitened space. What remains wrong is each row's own share of the
    reconstruction, its norm over the mean, until training has scaled its encoder.

    Args:
        point: The center, and the whitening if there is one.
        W_enc: [d_in, d_sae].
        W_dec: [d_sae, d_in].
        b_dec: [d_in].
        unit_decoder: Whether the library keeps the rows of W_dec at norm 1.
    """
    if point.whiten is not None and point.unwhiten is not None:
        encoder, decoder = _product(point.whiten, W_enc), _product(W_dec, point.unwhiten)
        if unit_decoder:
            norms = decoder.norm(dim=1, keepdim=True)
            encoder, decoder = norms.mean() * encoder, decoder / norms.clamp_min(torch.finfo(decoder.dtype).tiny)
        assign(W_enc, encoder)
        assign(W_dec, decoder)
    assign(b_dec, point.center)


def require(sae: object, name: str, library: str, *names: str) -> None:
    """Raises `UserError` unless the object has all attributes that an SAE of this library has."""
    missing = [one for one in names if not hasattr(sae, one)]
    if missing:
        raise UserError(
            f"{name} is a {type(sae).__name__} without '{missing[0]}': "
            f"should be {library}, which has {', '.join(names)}"
        )


def refuse_started(b_dec: Tensor) -> None:
    """Raises `UserError` if the decoder bias has moved: the SAE was started, or trained, before."""
    if bool(b_dec.any()):
        raise UserError("b_dec is not 0: start an SAE once, before its first step, and not one that was trained")


@torch.no_grad()
def assign(parameter: Tensor, value: Tensor) -> None:
    """Overwrites a parameter in place, so that optimizers and tied references keep it."""
    parameter.copy_(value.to(parameter))


def _product(a: Tensor, b: Tensor) -> Tensor:
    """Multiplies in float64 on the CPU: whitening spans scales that float32 does not hold."""
    return a.detach().cpu().double() @ b.detach().cpu().double()
