"""Adapters written as a package outside this repository would be; see docs/adapters.md."""
