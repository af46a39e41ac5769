"""The same work done by this project and its peers; see ``benchmarks/README.md``."""
