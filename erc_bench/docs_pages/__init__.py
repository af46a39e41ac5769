"""Documentation pages generated from the registries: objectives, measured on real batches, environments, experiments, claims.

``probe`` measures what an objective does with one token; ``curves`` and ``constraints`` choose the
moves of the policy; ``drawing`` and ``pages`` write. May import objectives, batches and the style of
plots; only the command line may import it. ``python -m erc_bench.docs_pages docs`` writes all pages.
"""
