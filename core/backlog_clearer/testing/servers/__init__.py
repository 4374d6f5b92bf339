"""Brokers and stand-ins that the tests and benchmarks of this repository start."""
