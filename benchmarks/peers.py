"""Other SAE libraries, each in an environment of its own: `python -m benchmarks.peers [NAME...]` installs them.

The tests of `saelib export` and `saelib import` load what these libraries write, and the training benchmark races
them. They lie in .peers/NAME, and their dependencies never meet ours.
"""

import argparse
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PEERS = {
    "saelens": "sae-lens==6.54.0",
    "dictionary_learning": "dictionary-learning==0.1.0",
    "sparsify": "eai-sparsify==1.3.3",
}
TORCH = "torch==2.13.0"
REMOVED = {"dictionary_learning": "torchvision"}
"""Demanded by its nnsight, used by nobody, and in transformers' way where it was built for another build of torch."""
FOLDER = Path(__file__).parents[1] / ".peers"


def python_of(name: str) -> Path | None:
    """The interpreter of a peer's environment; None where it is not installed, or in another version."""
    installed = FOLDER / name / "installed"
    if not installed.is_file() or installed.read_text() != _wanted(name):
        return None
    return FOLDER / name / "bin" / "python"


def install(name: str) -> None:
    """Create the environment of a peer, unless it is there."""
    if python_of(name):
        return
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    # This process may run in an environment itself; links into that one would tie the two together.
    venv.EnvBuilder(with_pip=True, symlinks=True).create(folder)
    constraint = folder / "constraint.txt"
    constraint.write_text(TORCH + "\n")
    # torch first, and held: a peer's dependencies would otherwise replace it by another build.
    _pip(name, "install", "-c", str(constraint), TORCH)
    _pip(name, "install", "-c", str(constraint), PEERS[name])
    if name in REMOVED:
        _pip(name, "uninstall", "-y", REMOVED[name])
    (folder / "installed").write_text(_wanted(name))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(PEERS)}; none: all")
    names = parser.parse_args(arguments).names or list(PEERS)
    if unknown := [name for name in names if name not in PEERS]:
        parser.error(f"no peer '{unknown[0]}'; there are: {', '.join(PEERS)}")
    for name in names:
        install(name)
        print(f"{name}: {PEERS[name]} in {FOLDER / name}")


def _pip(name: str, *arguments: str) -> None:
    command = [FOLDER / name / "bin" / "python", "-m", "pip", "--quiet", *arguments]
    if subprocess.run(command).returncode:
        sys.exit(f"{name}: 'pip {' '.join(arguments)}' failed; its messages are above")


def _wanted(name: str) -> str:
    return f"{TORCH}\n{PEERS[name]}\nwithout {REMOVED.get(name)}\n"


if __name__ == "__main__":
    main()
