"""Installs other SAE libraries, each in its own environment: `python -m benchmarks.peers [NAME...]`.

The tests of `saelib export` and `saelib import` read and write these libraries' files, the tests of
`saelib.integrations` train with them, and the training benchmark compares with them. Others read what we write of
latents, and compute the measures that ours are compared with. All are in .peers/NAME, so their dependencies never
mix with ours; saelib itself is installed next to the libraries as their users would install it, without extras.
"""

import argparse
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PEERS = {
    "saelens": "sae-lens==6.54.12",
    "dictionary_learning": "dictionary-learning==0.1.0",
    "sparsify": "eai-sparsify==1.3.3",
}
OTHERS = {
    "viewers": "sae-dashboard==0.8.0 neuronpedia==1.2.1 molviewspec==1.8.1",
    "sae_bench": "sae-bench==0.6.0",
}
"""Packages that need no saelib next to them: they read what we write of latents, or compute what we measure too."""
REQUIRED = PEERS | OTHERS
TORCH = "torch==2.13.0"
REMOVED = {"dictionary_learning": "torchvision", "sae_bench": "torchvision"}
"""Packages that a peer requires and does not use. Built for another torch, they break transformers."""
ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".peers"


def python_of(name: str) -> Path | None:
    """Returns the interpreter of a peer's environment; None if the peer is not installed, or in another version."""
    installed = FOLDER / name / "installed"
    if not installed.is_file() or installed.read_text() != _wanted(name):
        return None
    return FOLDER / name / "bin" / "python"


def install(name: str) -> None:
    """Creates the environment of a peer unless it exists."""
    if python_of(name):
        return
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    # This process may run in an environment itself. Links to its interpreter would tie the two together.
    venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    constraint = folder / "constraint.txt"
    constraint.write_text(TORCH + "\n")
    # torch comes first and is pinned: otherwise a peer's dependencies would replace it by another build.
    _pip(name, "install", "-c", str(constraint), TORCH)
    _pip(name, "install", "-c", str(constraint), *REQUIRED[name].split())
    if name in REMOVED:
        _pip(name, "uninstall", "-y", REMOVED[name])
    if name in PEERS:
        _pip(name, "install", "-c", str(constraint), "-e", str(ROOT))
    (folder / "installed").write_text(_wanted(name))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"any of {', '.join(REQUIRED)}; default: all")
    names = parser.parse_args(arguments).names or list(REQUIRED)
    if unknown := [name for name in names if name not in REQUIRED]:
        parser.error(f"no peer '{unknown[0]}'; there are: {', '.join(REQUIRED)}")
    for name in names:
        install(name)
        print(f"{name}: {REQUIRED[name]} in {FOLDER / name}")


def _pip(name: str, *arguments: str) -> None:
    command = [FOLDER / name / "bin" / "python", "-m", "pip", "--quiet", *arguments]
    if subprocess.run(command).returncode:
        sys.exit(f"{name}: 'pip {' '.join(arguments)}' failed; its messages are above")


def _wanted(name: str) -> str:
    return f"{TORCH}\n{REQUIRED[name]}\nwithout {REMOVED.get(name)}\nand saelib\n"


if __name__ == "__main__":
    main()
