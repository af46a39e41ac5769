"""Gates: which tokens keep their gradient.

``entropy`` looks at the entropy's ratio, ``divergence`` at distances between the whole
distributions, ``selection`` compares the tokens of a batch with each other.
"""
