"""Policies: ordinary ``nn.Module``s that map observations to logits.

A policy knows nothing of populations: it maps ``(..., F)`` observations to ``(..., V)`` logits, and the
trainer adds the run axis in front. Built from an observation space, so that one class serves every
environment.
"""

from erc_bench.training.policies.networks import MLP, POLICIES, Tabular, build_policy

__all__ = ["MLP", "POLICIES", "Tabular", "build_policy"]
