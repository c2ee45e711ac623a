"""Lists every result that a suite wants, with the key that makes it fresh."""

import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from saelib import datasets, sources
from saelib.activations.formats.shards import matches
from saelib.config import Config, ModelConfig
from saelib.config.base import Section
from saelib.config.datasets import PythonDocs
from saelib.config.files import LocalFiles
from saelib.config.sites import Layer, number_of
from saelib.config.sources import ArraysSource, ModuleSource, PluginSource
from saelib.config.synthetic import StoredDataConfig
from saelib.files.sealed import unseal
from saelib.lab import KINDS
from saelib.pipeline.keys import PACKAGE, code_hash, fingerprint, make_key, module_hashes
from saelib.pipeline.reasons import MadeFrom, named
from saelib.sources.loading.user_code import code_versions
from saelib.store import read_key, read_keys, remove_store
from saelib.store.remote import is_url
from saelib.train.rules import rule_modules


@dataclass(frozen=True)
class Target:
    """One result: its place, and the key that makes it fresh."""

    stage: str
    path: str
    """A store (a folder or an s3:// URL) or a JSON file that holds the key, relative to the working folder."""
    key: str
    model: str = ""
    layer: Layer = -1
    variant: str = ""
    experiment: str = ""
    cell: str = ""
    """Name of a cell of the experiment, such as 'gamma=2, k=5'."""
    made_from: MadeFrom = field(default=MadeFrom(), compare=False, repr=False)
    """The ingredients of the key, for people; a saved plan does not have them."""

    def __str__(self) -> str:
        """Names the result, for example 'stats of calm layer 1'."""
        place = [self.model, f"layer {self.layer}" if self.model else "", self.variant, self.experiment, self.cell]
        return " ".join([self.stage, *(["of"] if any(place) else []), *filter(None, place)])

    @property
    def address(self) -> tuple[str, str, Layer, str]:
        """Stage, model, layer and variant; for a cell of the lab, the experiment and the cell's name."""
        return self.stage, self.model or self.experiment, self.layer, self.variant or self.cell

    @property
    def output(self) -> Path:
        """The result's place as a `Path`."""
        return Path(self.path)

    def is_fresh(self) -> bool:
        """Checks whether the result carries the wanted key."""
        return not stale([self])

    def exists(self) -> bool:
        """Checks whether anything exists in the result's place. It does not ask object storage, and answers no."""
        return not is_url(self.path) and self.output.exists()

    def remove(self) -> None:
        """Removes the result in one step, whatever its key, so that the next run recomputes it."""
        if self.stage == "extract":
            remove_store(self.path)
            return
        if self.stage in ("evaluate", "features"):  # a folder of which this is the last file
            shutil.rmtree(self.output.parent)
            return
        self.output.unlink()
        for kept in self.output.parent.glob(f"{self.output.stem}.seed_*.json") if self.stage == "lab" else ():
            kept.unlink()  # a cell with the same key would resume from them
        if self.stage == "train":  # a training with the same key would resume from them
            shutil.rmtree(self.output.parent / "checkpoints", ignore_errors=True)


def present_keys(targets: Iterable[Target]) -> list[str | None]:
    """Reads the key of each result; None if it has none. Object storage is asked once for all of them."""
    targets = list(targets)
    stores = read_keys(target.path for target in targets if target.stage == "extract")
    return [stores[t.path] if t.stage == "extract" else _json_key(t.output) for t in targets]


def stale(targets: Iterable[Target]) -> list[Target]:
    """Returns the targets whose result is missing or carries another key."""
    targets = list(targets)
    return [target for target, key in zip(targets, present_keys(targets), strict=True) if key != target.key]


def wanted_targets(config: Config) -> Iterator[Target]:
    """Yields every result of the suite with its key, stage by stage in the order of their dependencies."""
    extract = {(t.model, t.layer): t for t in _extract_targets(config)}
    stats = {(t.model, t.layer): t for t in _stats_targets(config, extract.values())}
    death = list(_init_death_targets(config, stats.values()))
    theory = [_theory_target(config, stats.values())] if config.models else []
    train = list(_train_targets(config, stats))
    evaluations = list(_evaluate_targets(config, stats, train))
    features = list(_features_targets(config, evaluations))
    lab = list(_lab_targets(config))
    yield from (*extract.values(), *stats.values(), *death, *theory, *train, *evaluations, *features, *lab)
    yield _report_target(config, [*stats.values(), *death, *theory, *train, *evaluations, *features, *lab])


def _make(
    stage: str,
    path: Path | str,
    settings: dict[str, Any],
    modules: list[str],
    upstream: Iterable[Target],
    names: Mapping[str, str],
    place: tuple[str, Layer, str] = ("", -1, ""),
) -> Target:
    """Makes a target with its key and the ingredients of the key.

    Args:
        stage: The result's stage.
        path: The result's place.
        settings: The part of the config that decides it.
        modules: The stage's modules; their code and that of their imports decide it.
        upstream: The results that it is computed from.
        names: The names of `settings` in the config, for `named`.
        place: Its model, layer and variant.
    """
    upstream = list(upstream)
    code, hashes = _code(*modules)
    key = make_key(stage, settings, code, [t.key for t in upstream])
    made_from = MadeFrom(named(settings, names), hashes, {str(t): t.key[:16] for t in upstream})
    return Target(stage, str(path), key, *place, made_from=made_from)


@cache
def _code(*modules: str) -> tuple[str, dict[str, str]]:
    """Computes the hash of a stage's code and of each of its modules, once for all results."""
    return code_hash(*modules), module_hashes(*modules)


def _extract_targets(config: Config) -> Iterator[Target]:
    for name, model in config.models.items():
        settings, names = _extract_settings(config, name, model)
        modules = ["saelib.extract.stage", *_modules_behind(config, model)]
        for layer in model.places:
            own: dict[str, Any] = {"layer": layer}
            called = names
            if isinstance(model.source, ArraysSource):
                file, _, member = model.source.files[number_of(layer)].partition("::")
                fill = model.source.fill_missing_chunks
                own |= {"file": _arrays_fingerprint(file), "member": member, "fill_missing_chunks": fill}
                called = names | {"file": f"contents of {file}", "member": f"array of {file}"}
            path = config.store_path(name, layer)
            yield _make("extract", path, settings | own, modules, (), called, (name, layer, ""))


def _arrays_fingerprint(location: str) -> str | list[str] | None:
    """Computes the fingerprint of a file, a folder, all files that a pattern matches, or a store at a URL."""
    if is_url(location):
        return read_keys([location])[location]
    found = matches(location)
    one = len(found) == 1 and str(found[0]) == str(Path(location).expanduser())
    return fingerprint(location) if one or not found else [f"{file.name} {fingerprint(str(file))}" for file in found]


def _extract_settings(config: Config, name: str, model: ModelConfig) -> tuple[dict[str, Any], dict[str, str]]:
    """Returns the settings that all layers of a model share, and their names in the config."""
    # Each layer of an `arrays` source has its own file, which does not concern the other layers.
    parts: dict[str, Section] = (
        {} if isinstance(model.source, ArraysSource) else {f"models.{name}.source": model.source}
    )
    dataset = config.datasets[model.dataset] if model.dataset else None
    if dataset is not None:
        parts[f"datasets.{model.dataset}"] = dataset
    # The documentation inside Python changes with its version.
    python = sys.version_info[:2] if isinstance(dataset, PythonDocs) else None
    files = [path for part in parts.values() for path in _local_files(part)]
    settings = {
        "python": python,
        "parts": [part.model_dump(mode="json") for part in parts.values()],
        "local_files": [fingerprint(str(path)) for path in files],
        "extraction": config.extraction.model_dump(mode="json", exclude={"device", "threads"}),
        "heldout_fraction": config.heldout_fraction,
        "seed": config.seed,
    }
    names = {"python": "Python's version", "packages": "the packages of the model's code"}
    names |= {f"parts.{i}": key for i, key in enumerate(parts)}
    names["local_files"] = f"contents of {', '.join(map(str, files))}"
    if isinstance(model.source, ModuleSource | PluginSource):
        settings["packages"] = code_versions(model.source)
    return settings, names


def _local_files(part: Any) -> Iterator[Path]:
    """Yields the files that a part of the config names by path. All others are pinned by a checksum or a revision."""
    if isinstance(part, LocalFiles):
        yield part.path
    elif isinstance(part, Section):
        for name in type(part).model_fields:
            yield from _local_files(getattr(part, name))
    elif isinstance(part, tuple):
        for item in part:
            yield from _local_files(item)


def _modules_behind(config: Config, model: ModelConfig) -> list[str]:
    """Lists the modules that the config chooses by name, because no import statement names them."""
    modules = [sources.FAMILIES[model.source.family]]
    if model.dataset:
        modules.append(datasets.KINDS[config.datasets[model.dataset].kind])
    return modules


def _stats_targets(config: Config, extract: Iterable[Target]) -> Iterator[Target]:
    settings = {"whitening": config.needs_whitening(), "device": config.stats.device.partition(":")[0]}
    names = {"whitening": "whether any stage whitens", "device": "stats.device"}
    for t in extract:
        path = config.stats_path(t.model, t.layer)
        yield _make("stats", path, settings, ["saelib.stats.stage"], [t], names, (t.model, t.layer, ""))


def _init_death_targets(config: Config, stats: Iterable[Target]) -> Iterator[Target]:
    settings = config.init_death.model_dump(mode="json", exclude={"layers_per_job", "device"}) | {"seed": config.seed}
    names = {"": "init_death", "seed": "seed"}
    for t in stats:
        path = config.init_death_path(t.model, t.layer)
        yield _make("init_death", path, settings, ["saelib.init_death.stage"], [t], names, (t.model, t.layer, ""))


def _theory_target(config: Config, stats: Iterable[Target]) -> Target:
    settings = {
        "d_sae": config.init_death.d_sae,
        "k": config.init_death.k,
        "tokens": config.extraction.heldout_tokens,
    }
    names = {"": "init_death", "tokens": "extraction.heldout_tokens"}
    return _make("theory", config.theory_path(), settings, ["saelib.theory.stage"], stats, names)


def _train_targets(config: Config, stats: dict[tuple[str, Layer], Target]) -> Iterator[Target]:
    for name, model in config.models.items():
        shared = {"stream": model.stream and model.stream.deciding()}
        names = {"": "train", "seed": "seed", "stream": f"models.{name}.stream"}
        for layer, (variant, options) in product(model.trained_places, config.train.variants.items()):
            path = config.train_path(name, layer, variant) / "sweep.json"
            seed = config.seed if options.seed is None else options.seed
            settings = config.train.deciding(options) | shared | {"seed": seed}
            called = names | {
                "options": f"train.variants.{variant}",
                "options.learning_rates": "train.learning_rates",
            }
            read = [stats[name, layer]]
            modules = ["saelib.train.stage", *rule_modules(options)]
            yield _make("train", path, settings, modules, read, called, (name, layer, variant))


def _evaluate_targets(
    config: Config, stats: dict[tuple[str, Layer], Target], train: Iterable[Target]
) -> Iterator[Target]:
    settings = config.evaluation
    if settings is None:
        return
    train = list(train)
    for name, model in config.models.items():
        source, names = _extract_settings(config, name, model)
        own = settings.model_dump(mode="json", exclude={"labels", "embeddings", "structures"})
        own |= {"k": config.train.k, "d_sae": config.train.d_sae, "model": source}
        modules = ["saelib.evaluation.stage", *_modules_behind(config, model)]
        names = {f"model.{path}": key for path, key in names.items()} | {"": "evaluation"}
        names |= {"k": "train.k", "d_sae": "train.d_sae", "model": f"models.{name}"}
        labels = settings.labels.get(model.dataset or "") or settings.labels.get(name)
        if labels is not None:
            files = list(_local_files(labels))
            own |= {"labels": labels.model_dump(mode="json"), "label_files": [fingerprint(str(file)) for file in files]}
            names["label_files"] = f"contents of {', '.join(map(str, files))}"
        if name in settings.embeddings:
            asked = settings.embeddings[name]
            other, _ = _extract_settings(config, asked.model, config.models[asked.model])
            own["embeddings"] = asked.model_dump(mode="json") | {"of": other}
            modules += _modules_behind(config, config.models[asked.model])
        for layer in model.trained_places:
            trained = [target for target in train if (target.model, target.layer) == (name, layer)]
            path = config.evaluation_path(name, layer) / "evaluation.json"
            yield _make("evaluate", path, own, modules, [stats[name, layer], *trained], names, (name, layer, ""))


def _features_targets(config: Config, evaluations: Iterable[Target]) -> Iterator[Target]:
    if not config.features or config.evaluation is None:
        return
    pages = [PACKAGE / "features" / "assets", PACKAGE / "report" / "assets" / "page.css"]
    settings = {"seed": config.seed, "page": [fingerprint(str(path)) for path in pages]}
    names = {"seed": "seed", "page": "the page's template", "structures": "contents of evaluation.structures"}
    for t, variant in product(evaluations, config.train.variants):
        path = config.features_path(t.model, t.layer, variant) / "features.json"
        given = config.evaluation.structures.get(config.models[t.model].dataset or "")
        own = settings | ({"structures": fingerprint(str(given.path))} if given else {})
        yield _make("features", path, own, ["saelib.features.stage"], [t], names, (t.model, t.layer, variant))


def _lab_targets(config: Config) -> Iterator[Target]:
    for name, experiment in config.experiments.items():
        modules = ["saelib.lab.stage", KINDS[experiment.kind]]
        for cell in experiment.cells():
            settings = experiment.deciding(cell) | {"seed": config.seed}
            if isinstance(cell.data, StoredDataConfig):
                settings["store"] = read_key(cell.data.store)
            names = {"": f"experiments.{name}", "seed": "seed"}
            target = _make("lab", config.lab_path(name, cell), settings, modules, (), names)
            yield replace(target, experiment=name, cell=cell.name)


def _report_target(config: Config, reads: Iterable[Target]) -> Target:
    described = {name: [model.domain, model.license, model.notes] for name, model in config.models.items()}
    settings = {
        "models": described,
        "experiments": {
            name: [one.shows, one.model_dump(mode="json")["figures"]] for name, one in config.experiments.items()
        },
        "page": fingerprint(str(PACKAGE / "report" / "assets")),
        "compare": config.compare and [config.compare.names, fingerprint(str(config.compare.table))],
    }
    names = {name: name for name in ("compare", "models", "experiments")}
    names |= {"": "report", "page": "the page's template"}
    return _make("report", config.results / "report.json", settings, ["saelib.report.stage"], reads, names)


def _json_key(path: Path) -> str | None:
    try:
        return unseal(path.read_text())["key"]
    except (OSError, ValueError, KeyError):
        return None
