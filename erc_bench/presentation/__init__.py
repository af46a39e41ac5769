"""What people look at: figures (``plots``), pages and reports (``reporting``), the lesson (``explain``).

Plot functions take tidy tables and return axes; sentences, captions and files belong to ``reporting``.
"""
