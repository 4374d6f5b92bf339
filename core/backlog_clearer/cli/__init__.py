"""The command line, and the only place where click and rich are imported.

A command goes through `commands` (flags), `actions` (what it does) and `session` (plan, question,
progress, signals, result, exit code).
"""

import gc

# By default, cycles are looked for so often that it takes a tenth of the time in which modules load.
gc.set_threshold(20_000)
