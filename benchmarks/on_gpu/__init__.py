"""What ``benchmarks/gpu.py`` measures: one training step, taken as the Runner takes it."""
