"""One script per contender; each trains a :class:`benchmarks.workload.Workload` and prints JSON."""
