"""Thin handlers: each turns a platform's call into one call of `backlog_clearer`."""
