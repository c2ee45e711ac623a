"""Death at initialization and its remedy at the three sites of a layer: residual stream, attention and MLP output."""

import argparse
import importlib
import tempfile
from pathlib import Path

from benchmarks.timing import show
from saelib.config import Config
from saelib.config.load import check_config, read_yaml
from saelib.config.sites import SITES
from saelib.pipeline.plan import make_plan
from saelib.report import layers_table, read_results

LAYERS = {"smollm2-135m": [1, 15, 30], "all-minilm-l6-v2": [1, 3, 6], "dinov2-vits14": [1, 6, 12]}
"""Layers of the default suite's models: the first, a middle one and the last."""
FIGURES = ("gamma", "gamma_unit", "effective_rank")
RATES = ("dead_total", "dead_total_center_median", "dead_total_pca")


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks sites", description=__doc__)
    parser.add_argument("--configfile", type=Path, default=Path("workflow_config.yaml"))
    parser.add_argument("--models", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--json", action="store_true", help="print JSON instead")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        config = suite(options.configfile, options.models, Path(folder))
        for job in make_plan(config).jobs.values():
            if job.stage != "report":
                importlib.import_module(f"saelib.{job.stage}.stage").run(config, job)
        rows = layers_table(config, read_results(config)).to_dicts()
    lines = ["| model | layer | site | γ | γ, unit tokens | effective rank | raw | centered | whitened | remedy |"]
    lines += ["|---|---|---|---|---|---|---|---|---|---|", *map(line, rows)]
    show({"rows": rows}, lines, options.json)


def suite(configfile: Path, models: list[str], results: Path) -> Config:
    """Returns the models of a suite at all sites of their layers in `LAYERS`, without training."""
    content = read_yaml(configfile)
    content["models"] = {name: content["models"][name] | {"layers": LAYERS[name]} for name in models}
    for model in content["models"].values():
        model["sites"] = list(SITES)
        model.pop("representative_layer", None)
    return check_config(content | {"results": str(results)}, str(configfile))


def line(row: dict[str, object]) -> str:
    figures = [f"{row[name]:.2f}" if name != "effective_rank" else f"{row[name]:.0f}" for name in FIGURES]
    rates = [f"{100 * row[name]:.1f} %" for name in RATES]  # pyright: ignore[reportOperatorIssue]
    cells = [row["model"], row["layer"], f"`{row['site']}`", *figures, *rates, f"`{row['recommendation']}`"]
    return f"| {' | '.join(map(str, cells))} |"
