"""The structure that docs/architecture.md promises: few loose modules, no circular imports, rooms in one direction."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import saelib

PACKAGE = Path(saelib.__file__).parent
LOOSE = {"__init__", "__main__", "environments", "errors", "progress"}
BOTTOM_UP = (
    *("errors", "files", "progress", "environments", "config", "devices", "fetch", "store", "activations", "datasets"),
    *("sources", "extract", "stats", "theory", "preprocessing", "sae", "evaluation", "init_death", "train"),
    *("synthetic", "lab", "interchange", "diagnosis", "integrations", "report", "features", "pipeline", "api", "cli"),
    "__main__",
)
UPWARD = {
    ("config", "fetch"): "sizes: what cached checkpoints say of themselves",
    ("stats", "pipeline"): "keys: workers of a cluster compare their code",
    ("report", "pipeline"): "failures: why a row is absent",
}
"""Imports of a room above, with the reason; of `pipeline` only the modules named."""


def modules() -> dict[str, ast.Module]:
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = ("saelib", *file.relative_to(PACKAGE).with_suffix("").parts)
        found[".".join(parts).removesuffix(".__init__")] = ast.parse(file.read_text())
    return found


def imports(tree: ast.Module, known: set[str]) -> Iterator[str]:
    """Modules of saelib that a module imports when it runs, wherever the statement stands."""
    for_types = {id(inner) for node in ast.walk(tree) if _for_types(node) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and id(node) not in for_types:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield full if full in known else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def _for_types(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def graph() -> dict[str, set[str]]:
    found = modules()
    return {name: {one for one in imports(tree, set(found)) if one in found} - {name} for name, tree in found.items()}


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_no_module_imports_itself_by_a_detour() -> None:
    TopologicalSorter(graph()).prepare()


def test_few_modules_are_loose() -> None:
    assert {file.stem for file in PACKAGE.glob("*.py")} == LOOSE


def test_rooms_import_downward() -> None:
    place = {name: number for number, name in enumerate(BOTTOM_UP)}
    assert {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").exists()} | LOOSE == {*place, "__init__"}
    upward = {
        (room(name), room(target))
        for name, targets in graph().items()
        for target in targets
        if room(name) and room(target) and place[room(target)] > place[room(name)]
    }
    assert upward <= set(UPWARD), f"imports of a room above: {sorted(upward - set(UPWARD))}"


def test_jobs_that_only_measure_start_without_torch() -> None:
    """The second line holds what they import when they run."""
    code = (
        "import sys, saelib.stats.stage, saelib.init_death.stage, saelib.theory.stage\n"
        "import saelib.lab.stage, saelib.lab.init_death, saelib.lab.training\n"
        "import saelib.stats.moments, saelib.init_death.trial, saelib.init_death.probes, saelib.sae.kernels.gemm\n"
        "print([m for m in ('torch', 'polars', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_what_is_read_says_what_it_is_for() -> None:
    """A reader who opens any file learns from its first sentence what it is for."""
    assert [name for name, tree in modules().items() if not ast.get_docstring(tree)] == []
