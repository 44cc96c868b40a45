"""Benchmarks: real servers, real processes, figures with their machine and date. Run with `python -m benchmarks`."""
