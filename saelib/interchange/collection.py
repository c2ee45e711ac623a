"""Find the SAEs of a folder, a repository of the hub or a release of SAELens, and read the one that is named."""

import importlib.util
import os
import re
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from saelib.config.files import HubFiles
from saelib.errors import UserError
from saelib.interchange.registry import FORMATS, WEIGHTS, check_output, import_sae, load_own
from saelib.sae.file import SavedSAE, save_sae

HUB = re.compile(r"(?P<id>[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*)(@(?P<revision>[^@:]+))?")
"""`org/name` or `org/name@revision`."""
RELEASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""A release in SAELens's list of pretrained SAEs; its SAEs are named by their `sae_id`."""
HERE = "."
"""The name of an SAE that lies in the folder itself."""


@dataclass(frozen=True)
class Collection:
    """The SAEs in one place; nothing of a remote one is downloaded before `load` asks for it."""

    place: str
    """Its name in messages."""
    names: tuple[str, ...]
    """The SAEs' folders in this place; `.` is the place itself."""
    read: Callable[[str, str | None], SavedSAE] = field(repr=False)
    """(name, library or None) -> that SAE; downloads its files if need be."""

    def load(self, name: str | None = None, library: str | None = None) -> SavedSAE:
        """Reads the SAE `name`; None: the one in the place itself, or the only one.

        Raises:
            UserError: if there is no such SAE, there are several and none is named, or it cannot be imported.
        """
        return self.read(self.pick(name), library)

    def pick(self, name: str | None) -> str:
        """Gives the name of the wanted SAE; None: the place itself, or the only one. Raises `UserError` if unclear."""
        if name is None and (HERE in self.names or len(self.names) == 1):
            return HERE if HERE in self.names else self.names[0]
        if name is None:
            raise UserError(
                f"{self.place}: holds {len(self.names)} SAE(s) in subfolders; name one, as in "
                f"{self.place}::{self.names[0]}, or import all of them with --all OUTFOLDER"
            )
        if name not in self.names:
            raise UserError(f"{self.place}: has no SAE '{name}'; has {', '.join(self.names[:10])}")
        return name


def open_collection(source: str, library: str | None = None) -> tuple[Collection, str | None]:
    """Opens `PLACE` or `PLACE::NAME`: the collection, and NAME if one is given.

    PLACE is a folder; `org/name` or `org/name@revision` on the Hugging Face hub, if no such path exists; or a release
    of SAELens, if the package `sae_lens` is installed, with a NAME that is its `sae_id`.

    Raises:
        UserError: if there is no such place, or it holds no SAE.
    """
    place, _, name = source.partition("::")
    path = Path(place)
    if path.exists() or path.is_absolute() or place.startswith((".", "~")):
        return _in_folder(path, library), name or None
    if hub := HUB.fullmatch(place):
        return _on_hub(HubFiles(hf=hub["id"], revision=hub["revision"] or "main"), place, library), name or None
    if RELEASE.fullmatch(place) and name:
        return Collection(place, (name,), lambda one, _: _from_saelens(place, one)), name
    raise UserError(
        f"{place}: no such folder; should be a folder, org/name or org/name@revision on the Hugging Face hub, or "
        "RELEASE::SAE_ID of SAELens"
    )


def import_all(collection: Collection, folder: Path, library: str | None = None) -> dict[str, SavedSAE]:
    """Writes every SAE of a collection to `folder`/NAME.safetensors; gives those that were written, by file.

    Raises:
        UserError: after all others were written, if some cannot be imported; it names each, with the reason.
    """
    written, failed = dict[str, SavedSAE](), list[str]()
    for name in collection.names:
        parts = PurePosixPath("sae" if name == HERE else name)
        out = folder / parts.with_name(f"{parts.name}.safetensors")
        try:
            if str(out) in written:
                raise UserError(f"{collection.place}::{name}: {out} already holds another of them; import it alone")
            check_output(out)
            saved = collection.load(name, library)
            out.parent.mkdir(parents=True, exist_ok=True)
            save_sae(saved, out)
            written[str(out)] = saved
        except UserError as error:
            failed.append(str(error))
    if failed:
        some = f"{len(failed)} of {len(collection.names)} SAEs of {collection.place} cannot be imported"
        raise UserError("\n".join([f"{some}; the others were written to {folder}:", *failed]))
    return written


def find_saes(files: Iterable[str], library: str | None = None) -> tuple[str, ...]:
    """Gives the folders that hold an SAE's two files, in natural order (layers.2 before layers.10).

    Args:
        files: Paths relative to the place, with `/`; paths that leave it (`..`) do not count.
        library: Whose SAEs; None: any library's.
    """
    folders: dict[str, set[str]] = {}
    for file in map(PurePosixPath, files):
        if ".." not in file.parts and not file.is_absolute():
            folders.setdefault(str(file.parent), set()).add(file.name)
    forms = FORMATS.values() if library is None else [FORMATS[library]]
    found = [name for name, held in folders.items() if any(held.issuperset(form.files) for form in forms)]
    return tuple(sorted(found, key=_natural))


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _in_folder(path: Path, library: str | None) -> Collection:
    """Looks for SAEs at any depth. A folder without any gives the message of `import_sae`."""
    wanted = {file for form in FORMATS.values() for file in form.files}
    files = [
        (Path(folder) / name).relative_to(path).as_posix()
        for folder, _, names in os.walk(path)
        for name in wanted.intersection(names)
    ]
    names = find_saes(files, library)
    if not names:
        import_sae(path, library)  # raises the reason
    return Collection(str(path), names, lambda name, library: import_sae(path / name, library))


def _on_hub(files: HubFiles, place: str, library: str | None) -> Collection:
    """Lists the repository's files at one commit; those of an SAE are downloaded, and verified, when it is read."""
    from saelib.fetch.hub import list_files, snapshot

    try:
        commit, listed = list_files(files)
    except UserError as error:
        raise UserError(f"{place}: no such folder, and on the hub: {error}") from None
    names = find_saes(listed, library)
    if not names:
        wanted = "; ".join(f"{name}: {' and '.join(form.files)}" for name, form in FORMATS.items())
        raise UserError(f"{place}: the repository holds no SAE in a known format ({wanted})")

    def read(name: str, library: str | None) -> SavedSAE:
        held = [file for form in FORMATS.values() for file in form.files]
        only = tuple(file if name == HERE else f"{name}/{file}" for file in held)
        return import_sae(snapshot(HubFiles(hf=files.hf, revision=commit, only=only)) / name, library)

    return Collection(place, names, read)


def _from_saelens(release: str, sae_id: str) -> SavedSAE:
    """Lets SAELens load a pretrained SAE, in whatever format it lies, and save it in its own."""
    if importlib.util.find_spec("sae_lens") is None:
        raise UserError(
            f"{release}: no such folder; as a release of SAELens it is read by that library: pip install sae-lens"
        )
    from sae_lens import SAE  # pyright: ignore[reportMissingImports] (an optional package)

    try:
        sae = SAE.from_pretrained(release, sae_id, device="cpu")
    except Exception as error:  # whatever its many loaders raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"{release}::{sae_id}: SAELens cannot load it ({reason})") from None
    with tempfile.TemporaryDirectory(prefix="saelib-") as folder:
        sae.save_model(folder)
        return import_sae(Path(folder), "saelens")


def load_any(place: str, library: str | None = None) -> tuple[SavedSAE, str]:
    """Loads one SAE from wherever it lies: what `load_own` or `open_collection` opens. Also gives its name."""
    path = Path(place)
    if path.is_file() or path.suffix == ".safetensors" or (path / WEIGHTS).is_file():
        return load_own(path), path.name
    collection, name = open_collection(place, library)
    return collection.load(name, library), name or Path(collection.place).name
