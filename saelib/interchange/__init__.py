"""Write and read SAEs in the files of other libraries."""

from saelib.interchange.registry import FORMATS, check_output, export_sae, import_sae, load_own

__all__ = ["FORMATS", "check_output", "export_sae", "import_sae", "load_own"]
