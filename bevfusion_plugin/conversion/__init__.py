"""Checkpoints of other code bases, as the models of this package take them."""
