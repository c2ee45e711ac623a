"""The formats by name, and how the format of a folder is recognized."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from saelib.errors import UserError
from saelib.files.publish import published_folder
from saelib.interchange import dictionary_learning, saelens, sparsify
from saelib.sae.file import SavedSAE, load_sae

WEIGHTS = "weights.safetensors"
"""The SAE in the folder of a variant that the suite trained."""


class Format(NamedTuple):
    """The format in which one library stores an SAE: a folder with two files."""

    files: tuple[str, str]
    """Names of the file of settings and the file of weights."""
    write: Callable[[SavedSAE, Path], None]
    read: Callable[[Path], SavedSAE]


FORMATS = {
    "saelens": Format(saelens.FILES, saelens.write, saelens.read),
    "dictionary_learning": Format(dictionary_learning.FILES, dictionary_learning.write, dictionary_learning.read),
    "sparsify": Format(sparsify.FILES, sparsify.write, sparsify.read),
}


def export_sae(saved: SavedSAE, name: str, folder: Path) -> None:
    """Publishes `saved` at `folder` in the format of library `name`, with its preprocessing folded into the weights.

    Raises:
        UserError: if the format is unknown or cannot express the SAE, or if `folder` holds anything other than an
            earlier export.
    """
    form = _format(name)
    folder = folder.resolve()
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: is a file; an export is a folder")
    # Publishing replaces the whole folder, so it must hold no other files.
    foreign = sorted({path.name for path in folder.glob("*")} - set(form.files))
    if foreign:
        raise UserError(f"{folder}: holds other files ({', '.join(foreign[:3])}); name a new folder")
    with published_folder(folder) as draft:
        form.write(saved, draft)


def import_sae(folder: Path, name: str | None = None) -> SavedSAE:
    """Reads an SAE that library `name` wrote; None recognizes the library by the files in `folder`.

    The result's `about` holds `imported_from` and the library's own `config`.

    Raises:
        UserError: if `folder` is not in the format, is damaged, or holds an SAE of a kind that saelib does not have.
    """
    if folder.is_file():
        raise UserError(f"{folder}: is a file; name the folder it lies in, which holds the settings too")
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    form = _format(name or _detect(folder))
    for file in form.files:
        if not (folder / file).is_file():
            raise UserError(f"{folder / file}: no such file")
    return form.read(folder)


def load_own(path: Path) -> SavedSAE:
    """Reads an SAE that saelib wrote (`load_sae`): its file, or the folder of a trained variant.

    Raises:
        UserError: if it is something else; for an SAE of another library, the message says how to import it.
    """
    folder = path if path.is_dir() else path.parent
    for name, form in FORMATS.items():
        if _holds(folder, form) and (folder == path or path.name in form.files):
            raise UserError(f"{path}: an SAE of {name}; first: saelib import {folder} sae.safetensors")
    return load_sae(path / WEIGHTS if (path / WEIGHTS).is_file() else path)


def check_output(path: Path) -> None:
    """Refuses a `path` without the suffix .safetensors, or at which some other file than an SAE of saelib lies."""
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: the output is a .safetensors file; name it {path.stem}.safetensors")
    if path.exists():
        try:
            load_sae(path)
        except UserError:
            raise UserError(f"{path}: exists and is not an SAE of saelib; name another file") from None


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise UserError(f"no format '{name}'; allowed: {', '.join(FORMATS)}")
    return FORMATS[name]


def _detect(folder: Path) -> str:
    for name, form in FORMATS.items():
        if _holds(folder, form):
            return name
    wanted = "; ".join(f"{name}: {' and '.join(form.files)}" for name, form in FORMATS.items())
    raise UserError(f"{folder}: in none of the known formats, which hold {wanted}")


def _holds(folder: Path, form: Format) -> bool:
    return all((folder / file).is_file() for file in form.files)
