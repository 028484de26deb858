"""Micro-batches, the windows they make, and the update a window ends in."""
