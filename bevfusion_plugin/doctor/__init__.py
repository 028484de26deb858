"""What can be known about a training before it begins."""
