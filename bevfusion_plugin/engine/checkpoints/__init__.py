"""Checkpoints: loaded safely, found, kept."""
