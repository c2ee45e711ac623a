"""SAEs in the files of other libraries, written and read."""

from saelib.interchange.registry import FORMATS, export_sae, import_sae

__all__ = ["FORMATS", "export_sae", "import_sae"]
