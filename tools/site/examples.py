"""An extension of griffe, which reads docstrings for mkdocstrings: shows the section `Example:` as Python sessions."""

from typing import Any

from griffe import Extension, Object


class ExampleSections(Extension):
    """Renames `Example:`, which griffe takes for a remark, to the section that it knows: `Examples:`."""

    def on_instance(self, *, obj: Object, **_: Any) -> None:
        """Changes an object's docstring, once it is read."""
        if obj.docstring:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
