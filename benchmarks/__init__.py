"""Benchmarks of this repository: `python -m benchmarks NAME` from its root."""
