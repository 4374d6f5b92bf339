"""Faults in finding targets before the end, and ages; each a change of the reference adapter's text."""

from __future__ import annotations

from tools.mutations import Mutation

_FIRST = "found = log.first_from(bound.until)\n"
_CUT = "return Cut(state.partition, found, none_older=found == log.start)"
_KEEP = "max(log.start, (_offset(state.end) or 0) - (bound.keep_last or 0))"
_LOG, _END = "self.broker.logs[state.partition]", "\n                )"
_AGE = f"self.broker.retained(self.group, state.partition){_END}"

CUTS = (
    Mutation(
        "a cut takes the first young message, too",
        _CUT,
        "return Cut(state.partition, found and found + 1, none_older=found == log.start)",
    ),
    Mutation(
        "a cut leaves the last old message",
        _CUT,
        "return Cut(state.partition, found and found - 1, none_older=found == log.start)",
    ),
    Mutation("a cut is the end", _CUT, "return Cut(state.partition, None)"),
    Mutation("a cut is the log's start", _CUT, "return Cut(state.partition, log.start)"),
    Mutation(
        "a time after all messages clears nothing",
        _CUT,
        "return Cut(state.partition, log.start if found is None else found)",
    ),
    Mutation(
        "that no message is old enough is not reported",
        _CUT,
        "return Cut(state.partition, found)",
    ),
    Mutation("keeping the last messages keeps one too few", _KEEP, f"{_KEEP} + 1"),
    Mutation("keeping the last messages keeps none", _KEEP, "_offset(state.end)"),
    Mutation("keeping the last messages keeps all", _KEEP, "log.start"),
    Mutation(
        "a broken partition ends the search for the targets of the others",
        "return Cut(state.partition, None, error)",
        "raise BrokerError(error, state.partition)",
    ),
    Mutation(
        "a broken partition has a target",
        "return Cut(state.partition, None, error)",
        "return Cut(state.partition, None)",
    ),
    Mutation(
        "a search for targets moves the position",
        _FIRST,
        f"{_FIRST}            self.broker.positions[self.group, state.partition] = found or log.end\n",
    ),
    Mutation(
        "cut lets the library's errors out",
        'self._ask("looking for a time")',
        "self._client.request()",
    ),
)

AGES = (
    Mutation(
        "an age is that of the first message retained",
        _AGE,
        "self.broker.logs[state.partition].start\n                )",
    ),
    Mutation(
        "an age is that of the newest message",
        _AGE,
        "self.broker.logs[state.partition].end - 1\n                )",
    ),
    Mutation(
        "an age is invented where there is no message",
        "return {partition: at for partition, at in found.items() if at is not None}",
        "return {key: at or self.broker.logs[key].times[-1][1] for key, at in found.items()}",
    ),
    Mutation(
        "an age is that of the moment",
        "return {partition: at for partition, at in found.items() if at is not None}",
        "return {key: datetime.now().astimezone() for key, at in found.items() if at is not None}",
    ),
    Mutation(
        "an age is known of the first partition only",
        "return {partition: at for partition, at in found.items() if at is not None}",
        "return {key: at for key, at in list(found.items())[:1] if at is not None}",
    ),
    Mutation(
        "an age has no time zone",
        "return {partition: at for partition, at in found.items() if at is not None}",
        "return {key: at.replace(tzinfo=None) for key, at in found.items() if at is not None}",
    ),
    Mutation(
        "asking for ages acknowledges",
        'self._ask("asking for ages")',
        'self._ask("asking for ages")\n        self.broker.positions.update('
        "{(self.group, state.partition): self.broker.logs[state.partition].start + 1 for state in states})",
    ),
    Mutation(
        "oldest lets the library's errors out",
        'self._ask("asking for ages")',
        "self._client.request()",
    ),
)

BOUNDS = (*CUTS, *AGES)
