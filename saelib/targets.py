"""Every result that a suite wants, and the key that makes it fresh."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from saelib import datasets, sources
from saelib.config import Config, ModelConfig
from saelib.config.base import Section
from saelib.config.datasets import PythonDocs
from saelib.config.files import LocalFiles
from saelib.config.sources import ArraysSource, ModuleSource, PluginSource
from saelib.files import unseal
from saelib.keys import PACKAGE, code_hash, fingerprint, make_key
from saelib.sources.user_code import code_versions
from saelib.store import read_keys


@dataclass(frozen=True)
class Target:
    """One result: where it lies, and the key that makes it fresh."""

    stage: str
    path: str
    """From the working directory; a store (a folder, or an s3:// URL) or a JSON file that holds the key."""
    key: str
    model: str = ""
    layer: int = -1
    variant: str = ""

    @property
    def output(self) -> Path:
        """`path`, as a path."""
        return Path(self.path)

    def is_fresh(self) -> bool:
        """Whether the result carries the wanted key."""
        return not stale([self])


def stale(targets: Iterable[Target]) -> list[Target]:
    """Those whose result is missing or carries another key. Object storage is asked once for all of them."""
    targets = list(targets)
    stores = read_keys(target.path for target in targets if target.stage == "extract")
    keys = [stores[t.path] if t.stage == "extract" else _json_key(t.output) for t in targets]
    return [target for target, key in zip(targets, keys, strict=True) if key != target.key]


def wanted_targets(config: Config) -> Iterator[Target]:
    """Every result of the suite with its key, stage by stage in the order of their dependencies."""
    extract = {(t.model, t.layer): t for t in _extract_targets(config)}
    stats = {(t.model, t.layer): t for t in _stats_targets(config, extract.values())}
    death = list(_init_death_targets(config, stats.values()))
    theory = _theory_target(config, stats.values())
    train = list(_train_targets(config, stats))
    yield from (*extract.values(), *stats.values(), *death, theory, *train)
    yield _report_target(config, [*stats.values(), *death, theory, *train])


def _extract_targets(config: Config) -> Iterator[Target]:
    for name, model in config.models.items():
        settings = _extract_settings(config, model)
        code = code_hash("saelib.extract", *_modules_behind(config, model))
        for layer in model.layers:
            own = {"layer": layer}
            if isinstance(model.source, ArraysSource):
                file, _, member = str(model.source.files[layer]).partition("::")
                own |= {"file": fingerprint(file), "member": member}
            key = make_key("extract", settings | own, code)
            yield Target("extract", str(config.store_path(name, layer)), key, name, layer)


def _extract_settings(config: Config, model: ModelConfig) -> dict[str, Any]:
    """What all layers of a model share."""
    # Each layer of an `arrays` source has a file of its own, which is none of the other layers' affair.
    parts: list[Section] = [] if isinstance(model.source, ArraysSource) else [model.source]
    dataset = config.datasets[model.dataset] if model.dataset else None
    if dataset is not None:
        parts.append(dataset)
    # The documentation inside Python changes with its version.
    python = sys.version_info[:2] if isinstance(dataset, PythonDocs) else None
    settings = {
        "python": python,
        "parts": [part.model_dump(mode="json") for part in parts],
        "local_files": [mark for part in parts for mark in _fingerprints(part)],
        "extraction": config.extraction.model_dump(mode="json", exclude={"threads"}),
        "heldout_fraction": config.heldout_fraction,
        "seed": config.seed,
    }
    if isinstance(model.source, ModuleSource | PluginSource):
        settings["packages"] = code_versions(model.source)
    return settings


def _fingerprints(part: Any) -> Iterator[str]:
    """Of files given by path, anywhere inside a part of the config. A checksum or a revision pins the others."""
    if isinstance(part, LocalFiles):
        yield fingerprint(str(part.path))
    elif isinstance(part, Section):
        for field in type(part).model_fields:
            yield from _fingerprints(getattr(part, field))
    elif isinstance(part, tuple):
        for item in part:
            yield from _fingerprints(item)


def _modules_behind(config: Config, model: ModelConfig) -> list[str]:
    """The modules that the config chooses by name, which no import statement shows."""
    modules = [sources.FAMILIES[model.source.family]]
    if model.dataset:
        modules.append(datasets.KINDS[config.datasets[model.dataset].kind])
    return modules


def _stats_targets(config: Config, extract: Iterable[Target]) -> Iterator[Target]:
    settings = {"whitening": config.needs_whitening()}
    code = code_hash("saelib.stats.stage")
    for t in extract:
        key = make_key("stats", settings, code, [t.key])
        yield Target("stats", str(config.stats_path(t.model, t.layer)), key, t.model, t.layer)


def _init_death_targets(config: Config, stats: Iterable[Target]) -> Iterator[Target]:
    settings = config.init_death.model_dump(mode="json", exclude={"layers_per_job"}) | {"seed": config.seed}
    code = code_hash("saelib.init_death.stage")
    for t in stats:
        key = make_key("init_death", settings, code, [t.key])
        yield Target("init_death", str(config.init_death_path(t.model, t.layer)), key, t.model, t.layer)


def _theory_target(config: Config, stats: Iterable[Target]) -> Target:
    settings = {
        "d_sae": config.init_death.d_sae,
        "k": config.init_death.k,
        "tokens": config.extraction.heldout_tokens,
    }
    key = make_key("theory", settings, code_hash("saelib.theory.stage"), [t.key for t in stats])
    return Target("theory", str(config.theory_path()), key)


def _train_targets(config: Config, stats: dict[tuple[str, int], Target]) -> Iterator[Target]:
    code = code_hash("saelib.train.stage")
    for name, model in config.models.items():
        shared = {"seed": config.seed, "stream": model.stream and model.stream.deciding()}
        for layer, (variant, options) in product(model.trained_layers, config.train.variants.items()):
            path = config.train_path(name, layer, variant) / "sweep.json"
            key = make_key("train", config.train.deciding(options) | shared, code, [stats[name, layer].key])
            yield Target("train", str(path), key, name, layer, variant)


def _report_target(config: Config, reads: Iterable[Target]) -> Target:
    described = {name: [model.domain, model.licence, model.notes] for name, model in config.models.items()}
    settings = {
        "models": described,
        "page": fingerprint(str(PACKAGE / "report" / "assets")),
    }
    key = make_key("report", settings, code_hash("saelib.report.stage"), [t.key for t in reads])
    return Target("report", str(config.results / "report.json"), key)


def _json_key(path: Path) -> str | None:
    try:
        return unseal(path.read_text())["key"]
    except (OSError, ValueError, KeyError):
        return None
