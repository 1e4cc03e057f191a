"""Benchmarks of the CPU kernels and of a busy machine."""
