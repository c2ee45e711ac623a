"""Lists the packages that only parts of saelib need, and names the command that installs a missing one."""

from collections.abc import Iterator
from contextlib import contextmanager

from saelib.errors import UserError

EXTRAS = {
    "torch": "train",
    "PIL": "models",
    "accelerate": "models",
    "datasets": "models",
    "gguf": "models",
    "huggingface_hub": "models",
    "onnx": "models",
    "tokenizers": "models",
    "transformers": "models",
    "altair": "report",
    "jinja2": "report",
    "matplotlib": "report",
    "vl_convert": "report",
    "distributed": "pipeline",
    "snakemake": "pipeline",
    "h5py": "formats",
    "pyarrow": "formats",
}
"""Import name -> the extra of saelib that installs it, as in pyproject.toml.

Packages of single families are in `saelib.environments`.
"""


@contextmanager
def explain_missing_extras(extra: str | None = None) -> Iterator[None]:
    """Turns the failed import of a package that an extra installs into one sentence; use it with `with` or as `@`.

    Any other failed import is a defect of saelib or of an installation, and is raised as it is.

    Args:
        extra: The extra that installs everything the block needs. Without it, the missing package's extra is named.

    Raises:
        UserError: If such a package is missing. The message has the command that installs it.

    Example:
        >>> with explain_missing_extras():
        ...     raise ModuleNotFoundError(name="torch")
        Traceback (most recent call last):
        saelib.errors.UserError: this needs torch, which is not installed; run: pip install 'saelib[train]'
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        command = f"pip install 'saelib[{extra or EXTRAS[error.name]}]'"
        raise UserError(f"this needs {error.name}, which is not installed; run: {command}") from error
