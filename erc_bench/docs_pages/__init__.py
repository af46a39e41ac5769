"""Documentation pages generated from the registries: objectives, environments, experiments, claims.

``probe`` measures on real batches what an objective does with one token; ``curves`` and
``constraints`` choose the moves of the policy; ``drawing`` and ``pages`` write; ``environments`` and
``experiments`` write theirs. May import objectives, batches, experiments, environments and the style of
plots; only the command line may import it. ``python -m erc_bench.docs_pages docs`` writes all pages.
"""
