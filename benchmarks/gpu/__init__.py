"""Benchmarks of the GPU kernels and of training steps on a GPU."""
