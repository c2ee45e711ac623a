"""Learning rates on the same batches: one step after another, as one program, and the products in both."""

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
    one = own_pace(card, "saelib", setting, 10)
    yield Row("one rate", {"ms": one.ms, "host, ms": one.host_ms})
    all_of_them = own_pace(card, "saelib", replace(setting, saes=saes), 10)
    figures = {"ms": all_of_them.ms, "host, ms": all_of_them.host_ms, "x one rate": all_of_them.ms / one.ms}
    yield Row(f"{saes} rates, one after another", figures)
    if card.on_gpu:
        for count in (1, saes):
            pace = own_pace(card, "saelib", replace(setting, path="auto", saes=count), 10)
            figures = {"ms": pace.ms, "host, ms": pace.host_ms, "x one rate": pace.ms / one.ms}
            yield Row(f"{count} as one program", figures)
    with products_in("tf32"):
        x = torch.randn(setting.batch_size, setting.d_in, device=card.device)
        W = torch.randn(saes, setting.d_sae, setting.d_in, device=card.device)
        apart = card.median_ms(lambda: [torch.mm(x, one.T) for one in W], 10)
        together = card.median_ms(lambda: torch.mm(x, W.flatten(0, 1).T), 10)
    yield Row(f"encoder products of {saes}, one after another", {"ms": apart})
    yield Row(f"encoder products of {saes} as one", {"ms": together})
