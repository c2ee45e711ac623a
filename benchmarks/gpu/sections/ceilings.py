"""Measures the ceilings of the device: copies through its memory, and matrix products in every precision."""

from collections.abc import Iterator

import torch

from benchmarks.gpu.card import Card, products_in
from benchmarks.gpu.report import Row

PRECISIONS = ("float32", "tf32", "bfloat16", "float64")


def rows(card: Card) -> Iterator[Row]:
    """A copy, then products [rows x inner] @ [inner x columns]."""
    yield Row("copy", _copy(card, card.either(2**31, 2**20)))
    for shape in card.either([(8192, 8192, 8192), (4096, 768, 8192), (4096, 4096, 65_536)], [(128, 128, 128)]):
        for precision in PRECISIONS:
            if precision != "float64" or shape[2] < 65_536:
                yield Row(" x ".join(f"{n:,}" for n in shape) + f", {precision}", _product(card, *shape, precision))
        card.free()


def _copy(card: Card, size: int) -> dict[str, float]:
    values = torch.zeros(size, dtype=torch.uint8, device=card.device)
    target = torch.empty_like(values)
    ms = card.median_ms(lambda: target.copy_(values))
    return {"ms": ms, "TB/s read and written": 2 * size / ms / 1e9}


def _product(card: Card, rows: int, inner: int, columns: int, precision: str) -> dict[str, float]:
    with products_in(precision) as dtype:
        a = torch.randn(rows, inner, device=card.device).to(dtype)
        b = torch.randn(columns, inner, device=card.device).to(dtype)
        ms = card.median_ms(lambda: torch.mm(a, b.T), 10)
    return {"ms": ms, "TFLOP/s": 2 * rows * inner * columns / ms / 1e9}
