"""What can be wrong with a recorded sample, each question a pure function that returns a :class:`Fault` or None."""
