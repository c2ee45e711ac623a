"""An example notebook as a page: its text, and its code in blocks."""

import json
from pathlib import Path


def notebook_page(path: Path) -> str:
    """Gives the Markdown of a notebook without outputs."""
    cells = json.loads(path.read_text())["cells"]
    text = ["".join(cell["source"]) for cell in cells]
    shown = [
        f"```python\n{source}\n```" if cell["cell_type"] == "code" else source
        for cell, source in zip(cells, text, strict=True)
    ]
    return "\n\n".join([*shown, f"This page is the notebook `examples/{path.name}`.", ""])
