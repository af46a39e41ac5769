"""The documentation's source: committed pages, and pages made from docstrings, registries and measurements.

``site`` puts all of it together as plain Markdown. ``gen_files`` hands that to MkDocs when the site is
built (``make docs``); ``python -m tools.docs_pages FOLDER`` writes it into a folder for another builder.

Each of ``api``, ``claims``, ``conformance``, ``environments``, ``experiments`` and ``objectives`` has a
function ``pages``, which returns files by their path in the site, and ``sources``, which says which page is
made from which file of the repository. ``probe``, ``curves``, ``constraints`` and ``figure`` measure and
draw what an objective does with a token. Prose stands in ``templates``.
"""
