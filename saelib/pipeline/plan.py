"""Finds the stale results of a suite and groups them into the jobs that compute them."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from saelib.config import Config
from saelib.config.sites import Layer, LayerSite, file_stem, number_of, site_of
from saelib.errors import UserError
from saelib.files.publish import published_file
from saelib.files.sealed import read_sealed, seal
from saelib.pipeline.reasons import Records, in_short, read_records, reasons, write_records
from saelib.pipeline.targets import Target, present_keys, wanted_targets

# Each stage and the stages whose results it reads, in the order in which they run.
READS = {
    "extract": (),
    "stats": ("extract",),
    "init_death": ("extract", "stats"),
    "theory": ("stats",),
    "train": ("extract", "stats"),
    "evaluate": ("stats", "train"),
    "features": ("evaluate",),
    "lab": (),
    "report": ("stats", "init_death", "theory", "train", "evaluate", "features", "lab"),
}
WHOLE_SUITE = ("theory", "report")
ALONG = ("stats", "init_death")
"""Stages that an extraction on a GPU may compute too (`saelib.pipeline.one_pass`), in their order."""
SAVED = ("stage", "path", "key", "model", "layer", "variant", "experiment", "cell")
"""Fields of a target that a saved plan keeps for the jobs."""


@dataclass(frozen=True)
class Job:
    """Results that one process computes. `name` is unique within the stage; `after` names jobs as 'stage/name'."""

    stage: str
    name: str
    targets: tuple[Target, ...]
    after: tuple[str, ...]
    why: str = ""
    """The reason for the job, on one line."""
    along: tuple[Target, ...] = ()
    """Stale results of later jobs that are made from the rows of this extraction alone; it may compute them too."""

    @property
    def id(self) -> str:
        """The job's name in the whole plan, 'stage/name'."""
        return f"{self.stage}/{self.name}"


@dataclass(frozen=True)
class Plan:
    """The stale jobs of a suite, each after the jobs that it needs."""

    config: Config
    jobs: dict[str, Job]
    fresh: int
    """Number of results that are up to date."""
    stale: list[tuple[Target, list[str]]] = field(default_factory=list)
    """Stale results and the reasons why, in the order of their dependencies."""
    records: Records = field(default_factory=dict)
    """Ingredients of the keys that the suite wants and of those that its results carry, and the earlier records of
    other suites' results in the same folder."""

    def save(self, path: Path) -> None:
        """Writes the plan for the processes that will run its jobs, and the records of its keys."""
        jobs = {name: _as_json(job) for name, job in self.jobs.items()}
        document = {"config": self.config.model_dump(mode="json"), "jobs": jobs}
        with published_file(path) as draft:
            draft.write_text(seal(json.dumps(document, separators=(",", ":"))))
        write_records(self.config.keys_path(), self.records)


def load_job(path: Path, job_id: str) -> tuple[Config, Job]:
    """Reads the config and one job of a saved plan. Raises `UserError` if it is damaged or has no such job."""
    document = read_sealed(path)
    if job_id not in document["jobs"]:
        raise UserError(f"{path}: no job '{job_id}' in this plan")
    job = document["jobs"][job_id]
    targets, along = (tuple(_target(target) for target in job[part]) for part in ("targets", "along"))
    config = Config.model_validate(document["config"])
    return config, Job(job["stage"], job["name"], targets, tuple(job["after"]), along=along)


def _target(saved: dict[str, Any]) -> Target:
    """Rebuilds a target of a saved plan, in which a layer at another site than the residual stream is a list."""
    layer = saved["layer"]
    return replace(Target(**saved), layer=LayerSite(*layer) if isinstance(layer, list) else layer)


def make_plan(config: Config) -> Plan:
    """Compares the keys that a suite wants with those in its results folder."""
    wanted = list(wanted_targets(config))
    keys = present_keys(wanted)
    known = read_records(config.keys_path())
    why = {
        target: reasons(key, target.exists(), target.made_from, known.get(str(target), {}))
        for target, key in zip(wanted, keys, strict=True)
        if key != target.key
    }
    old = list(why)
    jobs: dict[str, Job] = {}
    makers: dict[tuple[str, str, Layer], list[str]] = {}
    for stage, reads in READS.items():
        for name, targets in _grouped(config, stage, [target for target in old if target.stage == stage]):
            if stage in WHOLE_SUITE:
                after = [job.id for job in jobs.values() if job.stage in reads]
            else:
                read = [(before, target.model, target.layer) for before in reads for target in targets]
                after = [job for result in read for job in makers.get(result, [])]
            in_words = in_short(reason for target in targets for reason in why[target])
            along = _along(targets, old) if stage == "extract" else ()
            job = Job(stage, name, tuple(targets), tuple(dict.fromkeys(after)), in_words, along)
            jobs[job.id] = job
            for target in targets:
                makers.setdefault((stage, target.model, target.layer), []).append(job.id)
    records = dict(known)
    for target, key in zip(wanted, keys, strict=True):
        carried = {name: made for name, made in known.get(str(target), {}).items() if name == key}
        records[str(target)] = carried | {target.key: target.made_from}
    return Plan(config, jobs, len(wanted) - len(old), list(why.items()), records)


def _along(stores: list[Target], stale: list[Target]) -> tuple[Target, ...]:
    """Returns the stale results of `ALONG` that are made from these stores."""
    places = {(store.model, store.layer) for store in stores}
    return tuple(target for target in stale if target.stage in ALONG and (target.model, target.layer) in places)


def _as_json(job: Job) -> dict[str, Any]:
    bare = asdict(replace(job, targets=(), along=()))
    return bare | {"targets": _saved(job.targets), "along": _saved(job.along)}


def _saved(targets: tuple[Target, ...]) -> list[dict[str, Any]]:
    return [{name: getattr(target, name) for name in SAVED} for target in targets]


def _grouped(config: Config, stage: str, stale: list[Target]) -> Iterator[tuple[str, list[Target]]]:
    """Splits a stage's stale targets into jobs, and yields (name, targets) for each."""
    if stage in WHOLE_SUITE:
        if stale:
            yield "all", stale
        return
    if stage == "lab":
        yield from _grouped_cells(config, stale)
        return
    for name, model in config.models.items():
        own = [target for target in stale if target.model == name]
        if stage == "features":
            for layer in dict.fromkeys(target.layer for target in own):
                yield f"{name}/{file_stem(layer)}", [target for target in own if target.layer == layer]
        elif stage != "train":
            # One forward pass serves all layers of a model, so extraction and evaluation are never split.
            sizes = {"stats": config.stats.layers_per_job, "init_death": config.init_death.layers_per_job}
            by_site = [own] if stage in ("extract", "evaluate") else _split_by_site(own)
            for block in (block for part in by_site for block in _blocks(part, sizes.get(stage))):
                yield f"{name}/{_block_name(block)}", block
        elif model.stream is not None:
            for number, block in enumerate(_blocks(own, model.stream.sweeps_per_pass), 1):
                yield f"{name}/pass_{number}", block
        elif config.train.variants_per_job == 1:
            for target in own:
                yield f"{name}/{file_stem(target.layer)}/{target.variant}", [target]
        else:
            yield from _grouped_variants(config, name, own)


def _grouped_variants(config: Config, model: str, stale: list[Target]) -> Iterator[tuple[str, list[Target]]]:
    """Splits a model's stale variants into jobs of one layer each, of variants that read the same rows."""
    for layer in dict.fromkeys(target.layer for target in stale):
        own = [target for target in stale if target.layer == layer]
        alike: dict[str, list[Target]] = {}
        for target in own:
            alike.setdefault(config.train.rows_of(target.variant), []).append(target)
        blocks = [block for group in alike.values() for block in _blocks(group, config.train.variants_per_job)]
        for number, block in enumerate(blocks, 1):
            yield f"{model}/{file_stem(layer)}/variants_{number}", block


def _grouped_cells(config: Config, stale: list[Target]) -> Iterator[tuple[str, list[Target]]]:
    """Splits the stale cells of each experiment into jobs, which are named by their first cell's number in the grid."""
    for name, experiment in config.experiments.items():
        numbers = {cell.name: number for number, cell in enumerate(experiment.cells(), 1)}
        own = [target for target in stale if target.experiment == name]
        for block in _blocks(own, experiment.cells_per_job):
            yield f"{name}/cell_{numbers[block[0].cell]}", block


def _split_by_site(targets: list[Target]) -> list[list[Target]]:
    found: dict[str, list[Target]] = {}
    for target in targets:
        found.setdefault(site_of(target.layer), []).append(target)
    return list(found.values())


def _block_name(targets: list[Target]) -> str:
    """Names a job's layers: 'layers_1-3', or 'layers_1-3_mlp_out' if all are at one other site than the stream."""
    numbers, sites = [number_of(target.layer) for target in targets], {site_of(target.layer) for target in targets}
    site = f"_{sites.pop()}" if len(sites) == 1 else ""
    return f"layers_{min(numbers)}-{max(numbers)}{site}".removesuffix("_residual")


def _blocks(targets: list[Target], size: int | None) -> Iterator[list[Target]]:
    """Yields runs of at most `size` targets; without a size, all in one run."""
    size = size or max(1, len(targets))
    for start in range(0, len(targets), size):
        yield targets[start : start + size]
