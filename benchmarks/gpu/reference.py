"""The training loss written the plain way: dense codes of all latents, every gradient by autograd."""

import torch
from torch import Tensor

from saelib.config.training import VariantConfig


def dense_loss(
    p: dict[str, Tensor],
    x: Tensor,
    variant: VariantConfig,
    k: int,
    variance: float,
    silent: Tensor,
    dead_after: int,
    risen: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """The loss and the codes [tokens, d_sae].

    Args:
        p: The SAE's parameters by name.
        x: [tokens, d_in].
        variant: Its architecture and what it does about dead latents.
        k: Latents of a token.
        variance: ||sigma||^2 of the data.
        silent: Examples since each latent last fired, before this batch: [d_sae].
        dead_after: So many make a latent dead.
        risen: Share of its coefficient that a tanh penalty has reached.
    """
    architecture = variant.architecture
    pre = (x - p["b_dec"]) @ p["W_enc"] + p["b_enc"]
    penalty = 0.0
    if architecture.kind == "topk":
        z = torch.zeros_like(pre).scatter(1, pre.topk(k).indices, 1.0) * pre.relu()
    elif architecture.kind == "abs_topk":
        z = torch.zeros_like(pre).scatter(1, pre.abs().topk(k).indices, 1.0) * pre
    elif architecture.kind == "batch_topk" or architecture.kind == "matryoshka_batch_topk":
        bar = pre.flatten().sort().values[-k * len(x)]
        z = torch.where(pre >= bar, pre, 0).relu()
    elif architecture.kind == "relu":
        z = pre.relu()
        penalty = architecture.l1 * (z * p["W_dec"].norm(dim=1)).sum(1).mean()
    else:
        theta, width = p["threshold"], architecture.bandwidth
        near = ((pre - theta).abs() < width / 2).double().detach()
        moving = theta - theta.detach()  # 0, but for its gradient: the published pseudo-derivatives
        z = pre * (pre > theta).double() - (theta / width).detach() * near * moving
        l0 = ((pre > theta).double() - near / width * moving).sum(1).mean()
        if architecture.penalty.kind == "l0":
            penalty = architecture.coefficient * (l0 / (architecture.target_l0 or k) - 1) ** 2
        else:
            sizes = architecture.penalty.scale * z * p["W_dec"].norm(dim=1) / (variance / x.shape[1]) ** 0.5
            penalty = risen * architecture.penalty.coefficient * sizes.tanh().sum(1).mean()
    x_hat = z @ p["W_dec"] + p["b_dec"]
    if "bypass_in" in p:
        x_hat = x_hat + (x - p["b_dec"]) @ p["bypass_in"] @ p["bypass_out"]
    mse = ((x - x_hat) ** 2).sum(1).mean() / variance
    if architecture.kind == "matryoshka_batch_topk":
        missing = [z[:, width:] @ p["W_dec"][width:] for width in architecture.widths(z.shape[1])]
        mse = torch.stack([((x - x_hat + part) ** 2).sum(1).mean() for part in missing]).mean() / variance
    age = torch.where((z != 0).any(0), 0, silent + len(x))
    dead = (age >= dead_after).nonzero().flatten()
    extra = dead_loss(p, pre, (x - x_hat).detach(), dead, mse, variant, variance)
    return mse + penalty + extra, z.detach()


def dead_loss(
    p: dict[str, Tensor], pre: Tensor, e: Tensor, dead: Tensor, mse: Tensor, variant: VariantConfig, variance: float
) -> Tensor:
    """Loss by which dead latents learn.

    Args:
        p: The SAE's parameters by name.
        pre: Pre-activations [tokens, d_sae].
        e: What the others leave, [tokens, d_in].
        dead: Numbers of the dead latents.
        mse: The loss of the others.
        variant: The SAE's architecture and what it does about dead latents.
        variance: ||sigma||^2 of the data.
    """
    dead_latents = variant.dead_latents
    if dead_latents.kind == "auxk" and len(dead):
        z_dead = pre[:, dead] if variant.architecture.kind == "abs_topk" else pre[:, dead].relu()
        k_aux = min(dead_latents.k or e.shape[1] // 2, len(dead))
        kept = torch.zeros_like(z_dead).scatter(1, z_dead.abs().topk(k_aux).indices, 1.0)
        error = ((e - (z_dead * kept) @ p["W_dec"][dead]) ** 2).sum()
        return dead_latents.auxk_coefficient * error / ((e - e.mean(0)) ** 2).sum()
    if dead_latents.kind == "ghost_grads" and len(dead):
        fit = pre[:, dead].exp() @ p["W_dec"][dead]
        fit = fit * (e.norm(dim=1, keepdim=True) / 2 / fit.norm(dim=1, keepdim=True)).detach()
        error = ((e - fit) ** 2).sum(1).mean()
        return error * (mse / error).detach()
    if dead_latents.kind == "pre_act":
        below = (p.get("threshold", 0.0) - pre).relu() * p["W_dec"].norm(dim=1) / (variance / e.shape[1]) ** 0.5
        return dead_latents.coefficient * below.sum(1).mean()
    return torch.zeros((), dtype=e.dtype)
