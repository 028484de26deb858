"""BEVFusion's data transforms."""
