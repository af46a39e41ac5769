"""An extension of griffe: cross-references of reStructuredText in docstrings become code spans."""

from __future__ import annotations

from typing import Any

import griffe

from tools.docs_pages.markdown import code


class Roles(griffe.Extension):
    """Changes ``:func:`name` `` into a code span before mkdocstrings renders a docstring."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Called by griffe for everything it has read."""
        if obj.docstring:
            obj.docstring.value = code(obj.docstring.value)
