"""Batch plans and what follows from them: arithmetic, no Runner."""
