"""Benchmarks: each prints a ratio against peers run in the same minute; `make bench-NAME`."""
