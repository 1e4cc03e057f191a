"""What the CPU kernels are worth on this machine; `python -m benchmarks.cpu`."""
