"""Fetches files of the Hugging Face hub into its own library's cache, and verifies them."""

import hashlib
import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saelib.config.files import HubFiles
from saelib.errors import UserError
from saelib.fetch.cache import cache_folder
from saelib.files.digest import file_sha256
from saelib.files.sealed import write_json

log = logging.getLogger(__name__)


def describe(files: HubFiles) -> str:
    """Returns the name of a repository in messages."""
    return f"hf {files.hf}@{files.revision}"


def snapshot(files: HubFiles) -> Path:
    """Returns the repository's folder in the hub's cache, after fetching what is missing if there is a network.

    Raises:
        UserError: If it cannot be fetched, or if a file's content does not match its name in the cache, a SHA-256.
    """
    from huggingface_hub import get_token

    if files.gated and get_token() is None and not is_cached(files):
        raise UserError(_gated(files))
    with hub_errors(files, "download them elsewhere and name the folder: {path: /the/folder}"):
        folder = _download(files)
    _verify(files, folder)
    return folder


def commit(files: HubFiles, without_network: str) -> str:
    """Returns the commit that a revision now stands for. Raises `UserError` if the hub does not say (`hub_errors`)."""
    from huggingface_hub import HfApi

    if re.fullmatch("[0-9a-f]{40}", files.revision):
        return files.revision
    with hub_errors(files, without_network):
        return HfApi().repo_info(files.hf, repo_type=files.repo_type, revision=files.revision).sha or files.revision


def list_files(files: HubFiles) -> tuple[str, list[str]]:
    """Returns a repository's commit and the paths of its files; without a network, of the files in the cache.

    Raises:
        UserError: If there is no such repository or revision, or if neither the hub nor the cache has it.
    """
    from huggingface_hub import HfApi

    without_network = "download the files elsewhere and name their folder"
    try:
        sha = commit(files, without_network)
        with hub_errors(files, without_network):
            return sha, HfApi().list_repo_files(files.hf, repo_type=files.repo_type, revision=sha)
    except UserError:
        if (folder := cached(files)) is None:
            raise
        return folder.name, [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]


@contextmanager
def hub_errors(files: HubFiles, without_network: str) -> Iterator[None]:
    """Turns the many errors of the hub's libraries into one `UserError` that says what to do.

    `without_network` completes the sentence "Without a network, ...".
    """
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except GatedRepoError:
        raise UserError(_gated(files)) from None
    except RepositoryNotFoundError:
        kind = " (a data set needs `repo_type: dataset`)" if files.repo_type == "model" else ""
        raise UserError(
            f"{describe(files)}: the hub has no such {files.repo_type} for you; check its name{kind}, "
            "and set HF_TOKEN if it is private"
        ) from None
    except RevisionNotFoundError:
        raise UserError(f"{describe(files)}: the hub has no revision '{files.revision}' of it") from None
    # Without a network, or if a transfer breaks, the library raises OSError, or passes on httpx's errors.
    except (OSError, HFValidationError, _http_error(HfHubHTTPError)) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{describe(files)}: could not be fetched from the Hugging Face hub ({reason}). "
            f"Without a network, {without_network}"
        ) from None


def cached(files: HubFiles) -> Path | None:
    """Returns the repository's folder in the hub's cache, or None. It uses no network."""
    from huggingface_hub.errors import HFValidationError

    try:
        return _download(files, local_files_only=True)
    except (OSError, HFValidationError):
        return None


def is_cached(files: HubFiles) -> bool:
    """Checks whether the files are in the hub's cache. It uses no network."""
    folder = cached(files)
    return folder is not None and (files.inside == "." or any(folder.glob(files.inside)))


def _download(files: HubFiles, local_files_only: bool = False) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            files.hf,
            repo_type=files.repo_type,
            revision=files.revision,
            allow_patterns=_patterns(files),
            local_files_only=local_files_only,
        )
    )


def _patterns(files: HubFiles) -> list[str] | None:
    """Returns the patterns of the files to fetch for the hub's library, in which `*` also matches `/`."""
    if files.only or files.inside == ".":
        return list(files.only) or None
    inside = files.inside.replace("**/", "*")
    return [inside, f"{inside}/*"]


def _gated(files: HubFiles) -> str:
    kind = "datasets/" if files.repo_type == "dataset" else ""
    return (
        f"{describe(files)}: gated: accept the license at https://huggingface.co/{kind}{files.hf} "
        "and set HF_TOKEN (or run `hf auth login`)"
    )


def _http_error(hub_error: type[Exception]) -> type[Exception]:
    """Returns the base class of the errors of huggingface_hub's HTTP library, which depends on its version."""
    return next(base for base in hub_error.__mro__ if base.__name__ == "HTTPError")


def _verify(files: HubFiles, folder: Path) -> None:
    """Compares large files once with their SHA-256, by which the hub's cache names them.

    Small files are named by a git hash instead, and caches without symbolic links (Windows) have no such names.
    """
    from huggingface_hub.utils import filter_repo_objects

    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    for name in filter_repo_objects(found, allow_patterns=_patterns(files)):
        blob = found[name].resolve()
        if re.fullmatch("[0-9a-f]{64}", blob.name):
            _verify_blob(blob, f"{describe(files)}: {name}")


def _verify_blob(blob: Path, name: str) -> None:
    status = blob.stat()
    seen = {"file": str(blob), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    mark = cache_folder() / "hub" / f"{blob.name}-{hashlib.sha256(str(blob).encode()).hexdigest()[:12]}.json"
    if mark.is_file() and json.loads(mark.read_text()) == seen:
        return
    log.info("%s: checking its sha256 (%d MB)", name, status.st_size >> 20)
    found = file_sha256(blob)
    if found != blob.name:
        raise UserError(f"{name}: damaged: its sha256 is {found}, not {blob.name}; delete {blob} and fetch it again")
    write_json(mark, seen)
