"""Learning rates on the same batches: alone, with torch one after another, and as one program."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from benchmarks.gpu.card import Card, products_in
from benchmarks.gpu.contend import own_pace
from benchmarks.gpu.report import Row


def rows(card: Card) -> Iterator[Row]:
    """Times steps and encoder products, all in TF32."""
    saes = card.either(7, 2)
    setting = replace(card.setting(), precision="tf32")
    paths = (
        {"as one program": "auto", "with torch, one after another": "torch"} if card.on_gpu else {"with torch": "torch"}
    )
    for title, path in paths.items():
        one = own_pace(card, "saelib", replace(setting, path=path), 10)
        yield Row(f"one rate, {title.partition(',')[0]}", {"ms": one.ms, "host, ms": one.host_ms})
        pace = own_pace(card, "saelib", replace(setting, path=path, saes=saes), 10)
        figures = {"ms": pace.ms, "host, ms": pace.host_ms, f"{saes} alone / this": saes * one.ms / pace.ms}
        yield Row(f"{saes} rates, {title}", figures | ({"peak, GB": pace.peak_gb} if pace.peak_gb else {}))
    with products_in("tf32"):
        x = torch.randn(setting.batch_size, setting.d_in, device=card.device)
        W = torch.randn(saes, setting.d_sae, setting.d_in, device=card.device)
        apart = card.median_ms(lambda: [torch.mm(x, one.T) for one in W], 10)
        together = card.median_ms(lambda: torch.mm(x, W.flatten(0, 1).T), 10)
    yield Row(f"encoder products of {saes}, one after another", {"ms": apart})
    yield Row(f"encoder products of {saes} as one", {"ms": together})
