"""The training report: one page about a run, or about several."""
