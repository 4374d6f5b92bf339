"""How much to ask for in one Fetch request: pure.

Nothing of an answer is kept, so that memory sets no limit. Large answers are faster, because the broker
sends them without a pause; but an answer should not take longer than a moment, or a slow link would
carry for minutes what a lane no longer wants.
"""

from __future__ import annotations

LARGEST = 50 * 1024 * 1024  # fetch.max.bytes of consumers; a broker sends at most 55 MiB
SMALLEST = 1024 * 1024
_GROWTH = 8  # at most, from one answer to the next
_MOMENT_S = 1.0  # how long an answer should take


def next_fetch_bytes(asked: int, size: int, seconds: float, most: int = LARGEST) -> int:
    """How much to ask for after an answer of `size` bytes that arrived in `seconds`; `asked` was asked for.

    `most`: a limit, which may be less than `SMALLEST`.
    """
    if 2 * size < asked:  # it was limited by what there is
        return asked
    wanted = int(size / max(seconds, 0.001) * _MOMENT_S)
    return min(most, max(SMALLEST, min(LARGEST, _GROWTH * asked, wanted)))
