"""A training step of the plain script that people write first: dense codes, autograd, torch.optim.Adam."""

import torch
from torch import Tensor, nn

from benchmarks.contenders.worker import Setting, Step, autocast, raise_biases, serve


def make(setting: Setting) -> Step:
    device = setting.device
    directions = nn.functional.normalize(torch.randn(setting.d_sae, setting.d_in, device=device), dim=1)
    W_enc, W_dec = nn.Parameter(directions.T.contiguous()), nn.Parameter(directions.clone())
    b_enc, b_dec = (nn.Parameter(torch.zeros(n, device=device)) for n in (setting.d_sae, setting.d_in))
    raise_biases(b_enc, setting)
    # The fastest of torch's implementations of Adam: fused is faster for small SAEs, and as fast for large ones.
    optimizer = torch.optim.Adam([W_enc, W_dec, b_enc, b_dec], lr=setting.learning_rate, fused=True)
    dead = torch.arange(setting.d_sae, device=device) < setting.dead

    def codes(hidden_pre: Tensor, k: int) -> Tensor:
        values, indices = hidden_pre.topk(k, dim=1, sorted=False)
        return torch.zeros_like(hidden_pre).scatter(1, indices, values.relu())

    def step(x: Tensor) -> None:
        with autocast(setting):
            hidden_pre = (x - b_dec) @ W_enc + b_enc
            topk = setting.architecture == "topk"
            selected = codes(hidden_pre, setting.k) if topk else codes(hidden_pre.view(1, -1), setting.k * len(x))
            selected = selected.view_as(hidden_pre)
            error = x - selected @ W_dec - b_dec
            loss = error.square().sum(1).mean()
            for width in setting.nested_widths():
                loss = loss + (x - selected[:, :width] @ W_dec[:width] - b_dec).square().sum(1).mean()
            if setting.dead:
                masked = hidden_pre.masked_fill(~dead, -torch.inf)
                residual = error.detach()
                loss = loss + (residual - codes(masked, setting.k_aux) @ W_dec).square().sum(1).mean() / 32
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            W_dec.div_(W_dec.norm(dim=1, keepdim=True))

    return step


if __name__ == "__main__":
    serve(make)
