"""Documentation pages of the objectives, generated from the registry and measured on real batches.

``probe`` measures what an objective does with one token; ``curves`` and ``constraints`` choose the
moves of the policy; ``drawing`` and ``pages`` write. May import objectives, batches and the style of
plots; only the command line may import it. ``python -m erc_bench.docs_pages docs`` writes all pages.
"""
