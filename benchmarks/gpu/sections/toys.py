"""Small SAEs (d_in 50, d_sae 100, k 5): alone, and many on one stream of batches."""

from collections.abc import Iterator
from dataclasses import replace

from benchmarks.gpu.card import Card
from benchmarks.gpu.contend import own_pace
from benchmarks.gpu.report import Row
from benchmarks.training import SMALL


def rows(card: Card) -> Iterator[Row]:
    """Milliseconds of each SAE."""
    batch, many = card.either((SMALL.batch_size, 64), (64, 4))
    setting = card.setting(d_in=SMALL.d_in, d_sae=SMALL.d_sae, k=SMALL.k, k_aux=SMALL.k_aux, batch_size=batch)
    for name in ("saelib", "eager"):
        pace = own_pace(card, name, setting, 50)
        yield Row(f"{name}, one", {"ms each": pace.ms, "host, ms each": pace.host_ms})
    together = own_pace(card, "saelib", replace(setting, saes=many), 10)
    figures = {"ms each": together.ms / many, "host, ms each": together.host_ms / many}
    yield Row(f"saelib, {many} on the same batches", figures | {"eager alone / this": many * pace.ms / together.ms})
