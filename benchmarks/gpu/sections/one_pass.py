"""A small random GPT-2: statistics and deaths from rows that its extraction left on the device, and from its stores."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.gpu.card import Card
from benchmarks.gpu.clock import synchronize
from benchmarks.gpu.report import Row
from benchmarks.scaling.measure import suite
from benchmarks.scaling.sizes import Size
from saelib.config.sites import Layer
from saelib.extract import stage as extract
from saelib.init_death import stage as init_death
from saelib.pipeline.plan import Job, Plan, make_plan
from saelib.stats import stage as stats
from saelib.store.kept import KeptStore, KeptStores

DIFFERENT = "files that differ"
NOTE = "without the starts of the jobs; the stores have just been written, so no disk is read"


def rows(card: Card) -> Iterator[Row]:
    """Seconds of both ways, whose results must be the same to the last byte."""
    size = card.either(Size(tokens=65_536, d_in=768, layers=4), Size(tokens=512, d_in=64, layers=2))
    with TemporaryDirectory() as name:
        plan = _plan(card, size, Path(name))
        if not card.tiny:
            _figures(card, plan)  # compiles kernels
        figures = _figures(card, plan)
    yield Row(f"{size.layers} layers of d_in {size.d_in}, {size.tokens:,} tokens", figures, {DIFFERENT: 0}, NOTE)


def _plan(card: Card, size: Size, folder: Path) -> Plan:
    config = suite(size, folder)
    device = {"device": card.device.partition(":")[0]}
    rows = {"heldout_tokens": card.either(8192, 128), "window_rows": 16_384}
    parts = {
        "results": folder / "results",
        "extraction": config.extraction.model_copy(update=device | rows),
        "stats": config.stats.model_copy(update=device),
        "init_death": config.init_death.model_copy(update=device | card.either({}, {"d_sae": 64, "k": 4})),
    }
    return make_plan(config.model_copy(update=parts))


def _figures(card: Card, plan: Plan) -> dict[str, float | int]:
    kept = KeptStores(card.device, room=None if card.device.startswith("cuda") else float("inf"))
    extraction = _seconds(card, lambda: extract.run(plan.config, _job(plan, "extract")))
    keeping = _seconds(card, lambda: extract.run(plan.config, _job(plan, "extract"), kept))
    stores = {layer: store for layer in kept.layers if (store := kept.take(layer))}
    from_rows = _seconds(card, lambda: _measure(plan, stores))
    found = _contents(plan)
    from_stores = _seconds(card, lambda: _measure(plan, {}))
    wanted = _contents(plan)
    return {
        "extraction, s": extraction,
        "that keeps rows, s": keeping,
        "the rest from stores, s": from_stores,
        "from kept rows, s": from_rows,
        "both, stores / kept": (extraction + from_stores) / (keeping + from_rows),
        DIFFERENT: sum(found[file] != wanted[file] for file in wanted),
    }


def _measure(plan: Plan, kept: dict[Layer, KeptStore]) -> None:
    stats.run(plan.config, _job(plan, "stats"), kept)
    init_death.run(plan.config, _job(plan, "init_death"), kept)


def _contents(plan: Plan) -> dict[Path, bytes]:
    folders = (plan.config.results / stage for stage in ("stats", "init_death"))
    return {file: file.read_bytes() for folder in folders for file in folder.rglob("*") if file.is_file()}


def _job(plan: Plan, stage: str) -> Job:
    return next(job for job in plan.jobs.values() if job.stage == stage)


def _seconds(card: Card, call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    synchronize(card.device)
    return time.perf_counter() - start
