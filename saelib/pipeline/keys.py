"""Computes keys. A key is one hash over everything that a result depends on; a result with the wanted key is fresh."""

import ast
import hashlib
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).parents[1]
# These modules change no number: settings enter a key as values, downloads are pinned, others only move or show data.
NOT_IN_KEYS = (
    "saelib.config",
    "saelib.devices",
    "saelib.environments",
    "saelib.errors",
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
    """Computes the SHA-256 over a stage's name, its part of the config, its code and the keys of its inputs.

    `settings` is anything that JSON can hold; the order of keys in mappings makes no difference.
    """
    parts = {"stage": stage, "settings": settings, "code": code, "upstream": list(upstream)}
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def code_hash(*modules: str) -> str:
    """Computes the SHA-256 over modules of saelib and all modules of saelib that they import, directly or indirectly.

    Comments, docstrings and formatting make no difference.
    """
    digest = hashlib.sha256()
    for module in sorted(import_closure(*modules)):
        digest.update(f"{module}\n{_source(module)[0]}\n".encode())
    return digest.hexdigest()


def module_hashes(*modules: str) -> dict[str, str]:
    """Returns a short hash of each module that `code_hash` covers."""
    return {module: _module_hash(module) for module in sorted(import_closure(*modules))}


def import_closure(*modules: str) -> set[str]:
    """Finds the modules of saelib that `modules` reach by imports, at the top of a file or inside a function."""
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
    """Computes a hash of a file, or of all files in a folder; '' if there is none.

    It covers a file's size and pieces spread over its content, so it is fast for files of any size and the same for a
    copy, and misses only small edits in place. Hidden files and `__pycache__` are left out, because tools and Python
    write them whenever a folder is used.
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
    """Returns a module's code without comments and docstrings, and the modules of saelib that it imports."""
    tree = ast.parse(_file(module).read_text())
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # A body that held only a docstring becomes `pass`.
            kept = [statement for statement in body if not _decides_nothing(statement)]
            node.body = kept or [ast.Pass()]  # pyright: ignore[reportAttributeAccessIssue]
    return ast.unparse(tree), tuple(_imports(tree))


def _decides_nothing(node: ast.AST) -> bool:
    """Checks whether a statement changes no result: a bare string (a docstring), or imports for type checkers."""
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
    """Yields a module and the packages that contain it, whose `__init__` runs too."""
    parts = name.split(".")
    if parts[0] == "saelib":
        for end in range(1, len(parts) + 1):
            candidate = ".".join(parts[:end])
            if _file(candidate).is_file():
                yield candidate


def _file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
