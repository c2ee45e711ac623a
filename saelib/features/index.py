"""The page itself, `index.html`: its frame, style and script. Data comes from scripts that it loads when needed.

Texts, sequences and names were written by somebody else. The script shows them as text only, never as markup, and the
page's own policy allows its script by the hash, scripts and pictures next to the page, and no network.
"""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import saelib

ASSETS = Path(__file__).parent / "assets"
SUITE_STYLE = Path(saelib.__file__).parent / "report" / "assets" / "page.css"
"""The style of the suite's page, whose colors and controls this page shares."""
SCRIPTS = ("data.js", "list.js", "map.js", "examples.js", "structure.js", "molviewspec.js", "latent.js", "start.js")
"""The page's own scripts, in the order in which they run; together they are one."""


class Names(NamedTuple):
    """The SAE's names on the page, and the addresses of the pages that it links to."""

    sae: str
    place: str = ""
    """Model and layer, or anything else that says what the SAE reads."""
    report: str = ""
    """Address of the suite's page; empty if there is none."""
    twins: Mapping[str, str] = {}
    """Name of another SAE -> address of its page of latents."""


def render_index(names: Names, about: Mapping[str, Any], counts: Mapping[str, int], has_map: bool) -> str:
    """Renders the page.

    Args:
        names: The SAE's names, and addresses of other pages.
        about: What the script has to know before it loads anything.
        counts: Number of `tokens` and `examples`, and of latents that are `alive`, `dense` and `dead`.
        has_map: Whether latents have places on a map.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(ASSETS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = "\n".join((ASSETS / name).read_text(encoding="utf-8") for name in SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("index.html").render(
        names=names,
        about=about,
        counts=counts,
        has_map=has_map,
        style=SUITE_STYLE.read_text(encoding="utf-8") + (ASSETS / "features.css").read_text(encoding="utf-8"),
        script=script,
        policy=f"default-src 'none'; script-src 'sha256-{digest}' 'self' file:; img-src 'self' file:; "
        "style-src 'unsafe-inline'",
    )
