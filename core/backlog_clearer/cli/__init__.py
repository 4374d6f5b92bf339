"""The command line, and the only place where click and rich are imported.

A command goes through `commands` (flags), `actions` (what it does) and `session` (plan, question,
progress, signals, result, exit code).
"""
