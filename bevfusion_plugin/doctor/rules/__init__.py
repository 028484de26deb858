"""The rules, one file a subject; examination.py finds them here."""
