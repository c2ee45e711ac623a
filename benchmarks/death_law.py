"""The cap law against counting: death predicted from probes and counted, on the stores and statistics of a suite."""

import argparse
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from threadpoolctl import threadpool_limits

from benchmarks.timing import command_line, environment, environment_line, show
from saelib.init_death.measure import measure
from saelib.init_death.probes import probe_death
from saelib.preprocessing.fit import make_preprocessing
from saelib.stats import load_arrays
from saelib.store import open_store

SETTINGS = ("512/16", "2048/64", "8192/64", "32768/64", "4096/128")
PREPROCESSINGS = ("raw", "center_median", "pca")
LATENTS, FEWEST, LARGE = 6144, 3, 8192
"""About as many latents are counted for each setting, but at least 3 dictionaries unless they are larger than 8,192."""
PACKAGES = ("numpy", "numba", "scipy")


@dataclass(frozen=True)
class Comparison:
    """One layer, setting and preprocessing; rates are fractions."""

    model: str
    layer: int
    setting: str
    preprocessing: str
    counted: float
    predicted: float
    standard_error: float
    """Standard error of the difference, from the finite numbers of probes and of counted dictionaries: their spread as
    counted or as if latents died independently, whichever is larger."""

    @property
    def error(self) -> float:
        """The signed error of the prediction."""
        return self.predicted - self.counted

    @property
    def outside(self) -> bool:
        """Whether the error exceeds the target of one point and two standard errors."""
        return abs(self.error) > 0.01 + 2 * self.standard_error


def main(argv: list[str]) -> None:
    parser = command_line("death_law", __doc__)
    parser.add_argument("--results", type=Path, default=Path("results"), help="of a suite: its extract/ and stats/")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, metavar="D_SAE/K")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth layer")
    parser.add_argument("--probes", type=int, default=2048)
    parser.add_argument("--append", type=Path, help="a file of JSON lines that keeps what was compared, to resume from")
    options = parser.parse_args(argv)
    with threadpool_limits(1, "blas"):
        found = list(compare_all(options))
    report = {"comparisons": [asdict(one) for one in found], "environment": environment(*PACKAGES)}
    show(report, [*table(found), environment_line(*PACKAGES)], options.json)


def compare_all(options: argparse.Namespace) -> Iterator[Comparison]:
    """Compares all layers, and takes those from the file of `--append` that are in it."""
    kept = options.append.read_text().splitlines() if options.append and options.append.exists() else []
    known = [Comparison(**json.loads(line)) for line in kept]
    yield from known
    found = (options.results / "extract").glob("*/layer_*[0-9].zarr")  # of residual streams
    stores = sorted(found, key=lambda path: (path.parent, number(path)))
    for path in stores[:: options.every]:
        done = {one.setting for one in known if (one.model, one.layer) == (path.parent.name, number(path))}
        if missing := [setting for setting in options.settings if setting not in done]:
            for one in compare(options.results, path, missing, options.probes):
                if options.append:
                    with options.append.open("a") as file:
                        file.write(json.dumps(asdict(one)) + "\n")
                yield one


def number(store: Path) -> int:
    """Layer of `layer_3.zarr`."""
    return int(store.stem.removeprefix("layer_"))


def compare(results: Path, path: Path, settings: Sequence[str], probes: int) -> Iterator[Comparison]:
    """Compares one layer on its held-out rows; the probes are not latents of the counted dictionaries."""
    model, layer = path.parent.name, number(path)
    store = open_store(path)
    arrays = load_arrays(results / "stats" / model / f"layer_{layer}.json")
    fitted = {name: make_preprocessing(name, arrays, tokens=store.train.shape[0]) for name in PREPROCESSINGS}
    probed = probe_death(store.heldout, fitted, probes, seed=2026)
    for setting in settings:
        d_sae, k = map(int, setting.split("/"))
        seeds = range(dictionaries(d_sae))
        counted = measure(store.heldout, fitted, d_sae, k, seeds)
        for name in PREPROCESSINGS:
            predicted = probed[name].dead(d_sae, k)
            rate = counted[name].dead_total
            spread = max(predicted.sd_total, rate.sd)
            error = math.hypot(predicted.se_total, spread / math.sqrt(len(seeds)))
            yield Comparison(model, layer, setting, name, rate.mean, predicted.dead_total, error)


def dictionaries(d_sae: int) -> int:
    """Number of dictionaries of this size that are counted."""
    return 1 if d_sae > LARGE else min(8, max(LATENTS // d_sae, FEWEST))


def table(found: Sequence[Comparison]) -> list[str]:
    """Errors by setting and preprocessing, and the comparisons outside the target."""
    lines = [f"{'d_sae/k':>10} {'':14} {'layers':>6} {'MAE':>6} {'bias':>6} {'largest':>8} {'outside':>8}   points"]
    for setting in dict.fromkeys(one.setting for one in found):
        for name in PREPROCESSINGS:
            some = [one for one in found if (one.setting, one.preprocessing) == (setting, name)]
            if not some:
                continue
            errors = [100 * one.error for one in some]
            lines.append(
                f"{setting:>10} {name:14} {len(some):6} {statistics.fmean(map(abs, errors)):6.2f} "
                f"{statistics.fmean(errors):+6.2f} {max(errors, key=abs):+8.2f} {sum(one.outside for one in some):8}"
            )
    return lines + [
        f"outside: {one.model} layer {one.layer}, {one.setting}, {one.preprocessing}: counted {one.counted:.1%}, "
        f"predicted {one.predicted:.1%}, standard error {one.standard_error:.1%}"
        for one in found
        if one.outside
    ]
