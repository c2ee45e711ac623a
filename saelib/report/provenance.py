"""The origin of a report: its date, the code and versions that wrote it, and the machine."""

import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import saelib
from saelib.environments import available_cpus
from saelib.report.results import Results

PACKAGES = ("numpy", "numba", "torch", "transformers", "polars", "zarr", "dask", "snakemake")


def provenance(results: Results) -> dict[str, str]:
    """Describes this report in a few lines of text, by what each is about."""
    found = {
        "report written": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "saelib": _with_commit(saelib.__version__),
        "Python and packages": ", ".join([f"Python {platform.python_version()}", *_versions()]),
        "machine of this report": _machine(),
        "code that trained": ", ".join(dict.fromkeys(sweep.backend for sweep in results.sweeps.values())),
    }
    return {name: text for name, text in found.items() if text}


def _with_commit(release: str) -> str:
    """Appends the commit, if the package lies in a git checkout."""
    checkout = Path(saelib.__file__).parents[1]
    if not (checkout / ".git").exists():
        return release
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        commit = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return release
    return f"{release}, commit {commit}"


def _versions() -> list[str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {_processor()}, {available_cpus()} CPUs"


def _processor() -> str:
    """Names the CPU as Linux does; elsewhere as Python does."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown CPU"
