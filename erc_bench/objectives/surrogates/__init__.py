"""Per-token policy losses.

``token`` sees each token's own ratio, ``sequence`` a response's; ``wrappers`` hold another surrogate.
"""
