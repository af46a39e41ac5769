"""Objectives against implementations that were not written here; imported as ``differential``."""
