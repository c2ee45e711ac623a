"""Keys: what a result depends on, as one hash. A result is fresh when it carries the key that is wanted."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
# These decide no number: settings enter a key as values, downloads are pinned, the rest moves bytes or words about.
NOT_IN_KEYS = (
    "saelib.config",
    "saelib.environments",
    "saelib.errors",
    "saelib.extras",
    "saelib.fetch",
    "saelib.files.publish",
    "saelib.files.sealed",
    "saelib.pipeline.jobs",
    "saelib.progress",
    "saelib.pipeline.reasons",
    "saelib.extract.shortage",
    "saelib.stats.cluster",
    "saelib.train.loggers",
)


def make_key(stage: str, settings: Any, code: str, upstream: Iterable[str] = ()) -> str:
    """SHA-256 over a stage's name, its part of the config, its code and the keys of what it reads.

    `settings` is anything JSON can hold; the order of its mappings' keys does not count.
    """
    parts = {"stage": stage, "settings": settings, "code": code, "upstream": list(upstream)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def code_hash(*modules: str) -> str:
    """SHA-256 over the named modules of saelib and every module of saelib that they import, however indirectly.

    Comments, docstrings and formatting do not count.
    """
    digest = hashlib.sha256()
    for module in sorted(import_closure(*modules)):
        digest.update(f"{module}\n{_source(module)[0]}\n".encode())
    return digest.hexdigest()


def module_hashes(*modules: str) -> dict[str, str]:
    """What `code_hash` is made of: each module, and a short hash of it."""
    return {module: _module_hash(module) for module in sorted(import_closure(*modules))}


def import_closure(*modules: str) -> set[str]:
    """Modules of saelib reached from `modules` by import statements, at the top of a file or inside a function."""
    closure: set[str] = set()
    todo = [module for module in modules if _counts(module)]
    while todo:
        module = todo.pop()
        if module not in closure:
            closure.add(module)
            todo.extend(found for found in _source(module)[1] if _counts(found))
    return closure


SAMPLES, SAMPLE_BYTES = 16, 1 << 16


def fingerprint(path: str) -> str:
    """A hash of a file's size and of pieces spread over it; of a folder, of every file in it. '' where missing.

    Cheap for files of any size, the same for a copy, and different for anything but the smallest edit in place.
    Hidden files and `__pycache__` do not count: tools and Python itself write them when a folder is merely used.
    """
    root = Path(path).expanduser()
    digest = hashlib.sha256()
    files = sorted(_files_below(root)) if root.is_dir() else [root]
    if not root.exists():
        return ""
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(root)} {size}\n".encode())
        with file.open("rb") as stream:
            for index in range(SAMPLES):
                stream.seek(max(0, size - SAMPLE_BYTES) * index // (SAMPLES - 1))
                digest.update(stream.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _files_below(folder: Path) -> Iterable[Path]:
    for file in folder.rglob("*"):
        parts = file.relative_to(folder).parts
        if file.is_file() and not any(part.startswith(".") or part == "__pycache__" for part in parts):
            yield file


def _counts(module: str) -> bool:
    return module != "saelib" and not any(module == name or module.startswith(f"{name}.") for name in NOT_IN_KEYS)


@cache
def _module_hash(module: str) -> str:
    return hashlib.sha256(_source(module)[0].encode()).hexdigest()[:12]


@cache
def _source(module: str) -> tuple[str, tuple[str, ...]]:
    """Code of a module without comments and docstrings, and the modules of saelib it imports."""
    tree = ast.parse(_file(module).read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # `pass` keeps a body that held nothing else.
            kept = [statement for statement in body if not _decides_nothing(statement)]
            node.body = kept or [ast.Pass()]  # pyright: ignore[reportAttributeAccessIssue]
    return ast.unparse(tree), tuple(_imports(tree))


def _decides_nothing(node: ast.AST) -> bool:
    """A string that stands alone (a docstring), or imports for type checkers."""
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _imports(tree: ast.AST) -> Iterable[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level:
            base = node.module or ""
            # `from package import name`: the name may itself be a module.
            for name in (base, *(f"{base}.{alias.name}" for alias in node.names)):
                yield from _modules(name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield from _modules(alias.name)


def _modules(name: str) -> Iterable[str]:
    """The module itself and the packages above it, whose `__init__` runs too."""
    parts = name.split(".")
    if parts[0] == "saelib":
        for end in range(1, len(parts) + 1):
            candidate = ".".join(parts[:end])
            if _file(candidate).is_file():
                yield candidate


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
