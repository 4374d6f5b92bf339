"""One adapter a file; each implements `core.source` for one broker."""
