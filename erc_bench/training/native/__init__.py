"""The engine in compiled code: MLP and tabular policies in float32, for any objective written in torch.

``kernel.c`` holds the computations, ``library`` finds the compiled one that this processor runs,
``arrays`` owns the memory both sides work in, ``engine`` is the engine.
"""
