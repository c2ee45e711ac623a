"""Dense matrix products, by the fastest route that torch has for them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

GROUPS = 8
"""Candidates for a latent's place among the largest that are compared at first; 8 was fastest of 4 to 32 (CPU)."""


def largest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest values of each row [rows, n], unsorted, and their places: [rows, k] each.

    The columns are compared in groups first: a value among the k largest lies in a group whose maximum is among the
    k largest maxima. Less than half of topk's time for small k.
    """
    rows, n = values.shape
    if n % GROUPS or 4 * k > n // GROUPS:
        return values.topk(k, dim=1, sorted=False)
    width = n // GROUPS
    groups = values.reshape(rows, GROUPS, width).amax(1).topk(k, dim=1, sorted=False).indices
    members = torch.arange(GROUPS, device=values.device)[:, None] * width
    candidates = (groups[:, None] + members).flatten(1)
    chosen, places = values.gather(1, candidates).topk(k, dim=1, sorted=False)
    return chosen, candidates.gather(1, places)


Precision = Literal["float32", "tf32", "bfloat16"]

_HAS_ONEDNN = hasattr(torch.ops.mkldnn, "_linear_pointwise")  # as torch.compile calls it; it has no derivative


def product(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a @ b (+ bias): [m, l], [l, n] and [n], in any memory order, -> [m, n], contiguous.

    In float32 on a CPU, where no gradient is asked for, through oneDNN, which `torch.mm` does not use there: on AMD
    processors half the time of MKL. Not where b's rows lie apart: oneDNN takes a thousand times as long for those.
    """
    packed = b.is_contiguous() or b.t().is_contiguous()
    on_cpu = a.device.type == "cpu" and a.dtype == torch.float32
    if on_cpu and packed and _HAS_ONEDNN and not torch.is_grad_enabled():
        return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")
    return a @ b if bias is None else torch.addmm(bias, a, b)


def encoder_product(
    centered: Tensor, W_enc: Tensor, b_enc: Tensor, precision: Precision, out: Tensor | None = None
) -> Tensor:
    """Pre-activations [tokens, latents] of x - b_dec [tokens, d_in]; written to `out`, if it is given.

    `bfloat16` rounds both factors, after b_dec has been subtracted; products are added up and kept in float32. A GPU
    does so on its tensor cores, and other devices compute the same in float32. `tf32` is for `float32_products` to set.
    """
    a, b = centered, W_enc
    if precision == "bfloat16":
        a, b = a.bfloat16(), b.bfloat16()
        if a.is_cuda:
            found = torch.mm(a, b, out_dtype=torch.float32).to(centered.dtype)
            return found.add_(b_enc) if out is None else torch.add(found, b_enc, out=out)
        a, b = a.to(centered.dtype), b.to(centered.dtype)
    return product(a, b, b_enc) if out is None else torch.addmm(b_enc, a, b, out=out)


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Makes an NVIDIA GPU round the factors of float32 products to TF32 in the `with` block, or not, if not `tf32`.

    The switch is torch's own and holds for the whole process, so it is set back afterwards.
    """
    matmul = torch.backends.cuda.matmul
    name, values = ("fp32_precision", ("ieee", "tf32")) if hasattr(matmul, "fp32_precision") else ("allow_tf32", None)
    before = getattr(matmul, name)
    setattr(matmul, name, values[tf32] if values else tf32)  # values: from torch 2.9 on
    try:
        yield
    finally:
        setattr(matmul, name, before)
