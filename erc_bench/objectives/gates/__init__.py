"""Gates: which tokens keep their gradient.

``entropy`` looks at the entropy's ratio, ``divergence`` at how far the policy has moved, ``rejection`` at
how far the engine that drew the tokens was from the old policy; ``selection`` compares the tokens of a
batch with each other.
"""
