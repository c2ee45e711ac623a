"""Hooks of mkdocs: pages that are written while the site is built, and links that work on it and on GitHub alike."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from tools.site.api_page import api_page
from tools.site.cli_page import cli_page
from tools.site.config_page import config_page
from tools.site.notebook_page import notebook_page

PROJECT = Path(__file__).parents[2]
OUTSIDE = {
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "saelib/sae/autograd/README.md": "step_in_torch.md",
    "saelib/sae/kernels/README.md": "step_in_kernels.md",
}
"""Files outside docs/ that are pages of the site too: path in the project -> path in the site."""
NOTEBOOKS = {f"examples/{path.name}": f"examples/{path.stem}.md" for path in (PROJECT / "examples").glob("*.ipynb")}
LINK = re.compile(r"(\]\()([^)#:\s]+)((?:#[^)\s]*)?\))")


def on_files(files: Files, config: Any) -> Files:
    """Adds the pages that are written here."""
    written = {"reference/api.md": api_page, "reference/config.md": config_page, "reference/cli.md": cli_page}
    pages = {uri: page() for uri, page in written.items()}
    pages |= {uri: (PROJECT / path).read_text() for path, uri in OUTSIDE.items()}
    pages |= {uri: notebook_page(PROJECT / path) for path, uri in NOTEBOOKS.items()}
    for uri, text in pages.items():
        files.append(File.generated(config, uri, content=text))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Makes links between files of the project links between pages."""
    in_site = OUTSIDE | NOTEBOOKS
    in_project = {uri: path for path, uri in in_site.items()}
    here = page.file.src_uri
    folder = posixpath.dirname(in_project.get(here, f"docs/{here}"))

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(folder, link[2]))
        found = target.removeprefix("docs/") if target.startswith("docs/") else in_site.get(target)
        return (
            link[0] if found is None else link[1] + posixpath.relpath(found, posixpath.dirname(here) or ".") + link[3]
        )

    return markdown if here.startswith("reference/") else LINK.sub(moved, markdown)
