"""Whole jobs around the adapters, each one command: train, record, draw."""
