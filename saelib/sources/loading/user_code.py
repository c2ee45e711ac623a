"""Finds and calls Python code that the config names. If it fails, the error names its file and line."""

import logging
import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from inspect import isclass, isroutine
from pathlib import Path
from types import ModuleType
from typing import Any

from saelib.config.sources import ModuleSource, PluginSource
from saelib.errors import UserError

log = logging.getLogger(__name__)
GROUP = "saelib.sources"
"""Entry points of this group are plug-ins."""
LIBRARIES = tuple(sysconfig.get_paths()[kind] for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
SAELIB = str(Path(__file__).parents[2])


@contextmanager
def user_code(doing: str) -> Iterator[None]:
    """Turns whatever the user's code raises inside into one message that begins with `doing`, and logs the traceback.

    Raises:
        UserError: with the exception, and the file and line of the user's code that raised it or led to it.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # a job that ends with SystemExit would look finished
        log.debug("%s", doing, exc_info=True)
        reason = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())[:400]
        raise UserError(f"{doing}: {type(error).__name__}: {reason}{_place(error)}") from None


def call(function: Callable[..., Any], what: str, *args: Any, **kwargs: Any) -> Any:
    """Calls a function of the user's, which messages call `what`. Raises `UserError` for whatever it raises."""
    with user_code(what):
        return function(*args, **kwargs)


def load_dotted(dotted: str, folder: Path | None, what: str) -> Callable[..., Any]:
    """Imports the function or class `package.module:name`.

    Args:
        dotted: Its name in that form.
        folder: An absolute path that is searched first. It stays on the import path, because a function may import
            modules when it is called. None: search only installed packages.
        what: The beginning of messages, such as "module: factory".

    Raises:
        UserError: if there is no such module or name, if it cannot be called, or if another module of the same name
            was imported.
    """
    name, _, attributes = dotted.partition(":")
    if folder is not None and str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    found: Any = _imported(name, folder, f"{what} '{dotted}'")
    for attribute in attributes.split("."):
        if not hasattr(found, attribute):
            there = [key for key, value in vars(found).items() if isroutine(value) or isclass(value)]
            names = ", ".join(sorted(key for key in there if not key.startswith("_"))) or "nothing"
            raise UserError(f"{what} '{dotted}': no '{attribute}' there; functions and classes there: {names}")
        found = getattr(found, attribute)
    if not callable(found):
        raise UserError(f"{what} '{dotted}': is of type {type(found).__name__}, and should be a function or a class")
    return found


def _imported(name: str, folder: Path | None, what: str) -> ModuleType:
    place = folder or "the installed packages; give the folder of your own code as 'import_from'"
    with user_code(f"{what}: importing '{name}'"):
        try:
            module = import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{name}.".startswith(f"{error.name}."):
                raise  # the module exists, but imports one that does not
            also = f"; modules there: {_modules_beside(error.name, folder)}" if folder else ""
            raise UserError(f"{what}: no module '{error.name}' in {place}{also}") from None
    file = module.__file__
    if folder is not None and (file is None or folder not in Path(file).resolve().parents):
        raise UserError(f"{what}: '{name}' is also the name of {file or 'a built-in module'}; rename yours")
    return module


def _modules_beside(name: str, folder: Path) -> str:
    inside = folder.joinpath(*name.split(".")[:-1]).iterdir()
    return ", ".join(sorted(p.stem for p in inside if p.suffix == ".py" or (p / "__init__.py").is_file())) or "none"


def run_file(path: Path, what: str) -> ModuleType:
    """Runs one Python file as a module of its own.

    Its folder does not join the import path, and no bytecode is written next to it. All that it does is then in this
    one file, whose content is part of the results' keys.

    Raises:
        UserError: if it is not a Python file, or fails.
    """
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"{what}: should be a Python file (.py)")
    module = ModuleType(f"saelib_plugin_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    with user_code(what):
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module


def find_entry_point(name: str) -> EntryPoint:
    """Finds the plug-in that an installed package offers. Raises `UserError` if none or several offer it."""
    offered = entry_points(group=GROUP)
    found = [point for point in offered if point.name == name]
    if not found:
        names = ", ".join(sorted(offered.names)) or "none"
        raise UserError(f"plugin: no installed package has an entry point '{name}' in '{GROUP}'; there are: {names}")
    if len(found) > 1:
        raise UserError(f"plugin: the entry point '{name}' is offered by {', '.join(map(_distribution, found))}")
    return found[0]


def code_versions(source: ModuleSource | PluginSource) -> list[str]:
    """Lists the installed packages whose code a source runs, as 'name==version', for the key of its results.

    Code in the user's own files is part of the key by its content. Nothing is imported here. Packages that are not
    installed are left out; opening the source reports them.
    """
    if isinstance(source, PluginSource):
        points = entry_points(group=GROUP, name=source.entry_point) if source.entry_point else ()
        return sorted(map(_distribution, points))
    if source.import_from is not None:
        return []
    owners = packages_distributions()
    tops = {dotted.partition(":")[0].partition(".")[0] for dotted in (source.factory, source.prepare)}
    return sorted({f"{owner}=={version(owner)}" for top in tops for owner in owners.get(top, ())})


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name}=={point.dist.version}" if point.dist else point.value


def _place(error: BaseException) -> str:
    """Returns ' (file, line n)' of the innermost frame in the user's own code, or '' if there is none.

    If no frame is outside saelib and the libraries, the innermost frame outside saelib is used.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((SAELIB, "<"))]
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    return "".join(f" ({frame.filename}, line {frame.lineno})" for frame in (own or frames)[-1:])
