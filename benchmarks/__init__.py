"""Measurements, each a script with its command in its docstring; `python -m benchmarks` runs them all."""
