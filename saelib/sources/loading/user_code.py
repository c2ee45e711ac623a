"""Python that the config asks to run: found, called, and blamed by file and line where it fails."""

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
    """Turn whatever the user's code raises inside into one message that begins with `doing`; the traceback is logged.

    Raises:
        UserError: with the exception, and the file and line where the user's code raised it or called what did.
    """
    try:
        yield
    except UserError:
        raise
    except (Exception, SystemExit) as error:  # SystemExit: a job that ends this way would look finished
        log.debug("%s", doing, exc_info=True)
        reason = " ".join(str(error.msg if isinstance(error, SyntaxError) else error).split())[:400]
        raise UserError(f"{doing}: {type(error).__name__}: {reason}{_place(error)}") from None


def call(function: Callable[..., Any], what: str, *args: Any, **kwargs: Any) -> Any:
    """`function(...)`, of the user; `what` is what messages call it. Raises `UserError` for whatever it raises."""
    with user_code(what):
        return function(*args, **kwargs)


def load_dotted(dotted: str, folder: Path | None, what: str) -> Callable[..., Any]:
    """The function or class `package.module:name`; `what` begins messages.

    Args:
        dotted: where it is.
        folder: absolute; looked into first, and then for good: functions may import when they are called. None:
            installed packages alone.
        what: such as "module: factory".

    Raises:
        UserError: where there is no such module or name, what has it cannot be called, or another module of the same
            name was imported.
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
                raise  # something that the user's module imports
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
    """Run one Python file as a module of its own.

    Neither its folder joins the import path nor is bytecode kept beside it: what it does is in this file, whose content
    is in the results' keys.

    Raises:
        UserError: where it is no Python file, or fails.
    """
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"{what}: a Python file (.py) is wanted")
    module = ModuleType(f"saelib_plugin_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses look their module up
    with user_code(what):
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    return module


def find_entry_point(name: str) -> EntryPoint:
    """The plug-in that an installed package offers. Raises `UserError` where none does, or several do."""
    offered = entry_points(group=GROUP)
    found = [point for point in offered if point.name == name]
    if not found:
        names = ", ".join(sorted(offered.names)) or "none"
        raise UserError(f"plugin: no installed package has an entry point '{name}' in '{GROUP}'; there are: {names}")
    if len(found) > 1:
        raise UserError(f"plugin: the entry point '{name}' is offered by {', '.join(map(_distribution, found))}")
    return found[0]


def code_versions(source: ModuleSource | PluginSource) -> list[str]:
    """Installed packages whose code a source runs, as 'name==version', for its key; code in files is in it by content.

    Nothing is imported, and what is not installed is left out: opening the source says so.
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
    """' (file, line n)': the innermost frame outside saelib and libraries, else outside saelib; '' where none is."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((SAELIB, "<"))]
    own = [frame for frame in frames if not frame.filename.startswith(LIBRARIES)]
    return "".join(f" ({frame.filename}, line {frame.lineno})" for frame in (own or frames)[-1:])
