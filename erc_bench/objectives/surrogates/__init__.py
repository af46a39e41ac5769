"""Per-token policy losses.

``token`` sees each token's own ratio, ``sequence`` a response's, ``projection`` that of a projected
policy; ``wrappers`` hold another surrogate.
"""
