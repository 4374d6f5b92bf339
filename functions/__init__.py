"""Thin handlers: what a platform calls, turned into one call of `core`."""
