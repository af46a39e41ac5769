"""Tensors in, tensors out: batches, advantages, drift measures and the numerics below them.

This is the ground floor of the house. It imports no other room of ``erc_bench``.
"""
