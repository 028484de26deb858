"""Learning rate and momentum over the updates of a training."""
