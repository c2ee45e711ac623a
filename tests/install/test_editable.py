"""What `pip install -e` makes of the project: Python finds saelib from every folder."""

import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path


def found_from(folder: Path, site: Path) -> str:
    """The file of saelib, where `site` is the only folder of packages and Python was started in `folder`."""
    # -S: without this environment's own packages, of which saelib is one.
    code = f"import site; site.addsitedir({str(site)!r}); import saelib; print(saelib.__file__)"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], cwd=folder, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_beside_a_clone_named_saelib_the_package_is_found_and_not_the_clone(
    built: Callable[[str, Path], Path], tmp_path: Path
) -> None:
    site = tmp_path / "site"
    zipfile.ZipFile(built("editable", tmp_path)).extractall(site)
    package = str(tmp_path / "saelib" / "saelib" / "__init__.py")
    (tmp_path / "elsewhere").mkdir()
    for folder in (tmp_path, tmp_path / "elsewhere"):
        assert found_from(folder, site) == package
