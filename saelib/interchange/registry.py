"""The formats by name, and how a folder is told to be in one of them."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from saelib.errors import UserError
from saelib.files.publish import published_folder
from saelib.interchange import dictionary_learning, saelens, sparsify
from saelib.sae.file import SavedSAE, load_sae


class Format(NamedTuple):
    """How one library keeps an SAE: a folder with two files."""

    files: tuple[str, str]
    """Settings, weights."""
    write: Callable[[SavedSAE, Path], None]
    read: Callable[[Path], SavedSAE]


FORMATS = {
    "saelens": Format(saelens.FILES, saelens.write, saelens.read),
    "dictionary_learning": Format(dictionary_learning.FILES, dictionary_learning.write, dictionary_learning.read),
    "sparsify": Format(sparsify.FILES, sparsify.write, sparsify.read),
}


def export_sae(saved: SavedSAE, name: str, folder: Path) -> None:
    """Publish `saved` at `folder` as library `name` loads it, its preprocessing folded into the weights.

    Raises:
        UserError: for an unknown format, an SAE that the format cannot express, and a `folder` that holds anything
            but an earlier export.
    """
    form = _format(name)
    folder = folder.resolve()
    for path in (folder, *folder.parents):
        if path.exists() and not path.is_dir():
            raise UserError(f"{path}: is a file; an export is a folder")
    # Publishing replaces the whole folder: nothing of anyone else's may be in it.
    foreign = sorted({path.name for path in folder.glob("*")} - set(form.files))
    if foreign:
        raise UserError(f"{folder}: holds other files ({', '.join(foreign[:3])}); name a new folder")
    with published_folder(folder) as draft:
        form.write(saved, draft)


def import_sae(folder: Path, name: str | None = None) -> SavedSAE:
    """Read an SAE that another library wrote; without `name` the files in `folder` tell which.

    `about` of what is returned holds `imported_from` and the library's own `config`.

    Raises:
        UserError: where `folder` is not in the format, is damaged, or holds an SAE of a kind that we do not have.
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
    """Read a file of ours (`load_sae`).

    Raises:
        UserError: where it is not one; for an SAE of another library it says how to read that.
    """
    folder = path if path.is_dir() else path.parent
    for name, form in FORMATS.items():
        if _holds(folder, form) and (folder == path or path.name in form.files):
            raise UserError(f"{path}: an SAE of {name}; first: saelib import {folder} sae.safetensors")
    return load_sae(path)


def check_output(path: Path) -> None:
    """Refuse to write an SAE of ours at `path` under a foreign suffix, or in the place of a file that is none."""
    if path.suffix != ".safetensors":
        raise UserError(f"{path}: what is written is a .safetensors file; name it so, as in {path.stem}.safetensors")
    if path.exists():
        try:
            load_sae(path)
        except UserError:
            raise UserError(f"{path}: is there, and is no SAE of saelib that could be replaced; name another") from None


def _format(name: str) -> Format:
    if name not in FORMATS:
        raise UserError(f"no format '{name}'; allowed: {', '.join(FORMATS)}")
    return FORMATS[name]


def _detect(folder: Path) -> str:
    for name, form in FORMATS.items():
        if _holds(folder, form):
            return name
    inner = sorted(path.name for path in folder.iterdir() if any(_holds(path, form) for form in FORMATS.values()))
    if inner:
        raise UserError(
            f"{folder}: holds {len(inner)} SAE(s) in folders of their own; name one, as in {folder / inner[0]}"
        )
    wanted = "; ".join(f"{name}: {' and '.join(form.files)}" for name, form in FORMATS.items())
    raise UserError(f"{folder}: in none of the known formats, which hold {wanted}")


def _holds(folder: Path, form: Format) -> bool:
    return all((folder / file).is_file() for file in form.files)
