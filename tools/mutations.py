"""Faults that an adapter may have, each as a change of the reference adapter's text."""

from __future__ import annotations

from typing import NamedTuple


class Mutation(NamedTuple):
    """A fault, and the text that makes it; `old` occurs once in the module."""

    name: str
    old: str
    new: str


_LOG = '__import__("logging").getLogger("backlog_clearer")'

POSITIONS = (
    Mutation(
        "settle lowers a position that another process moved on",
        "self.broker.positions[key] = max(stored, *(last for _, last in ranges))",
        "self.broker.positions[key] = max(last for _, last in ranges)",
    ),
    Mutation(
        "settle stores the start of what was read last, not its end",
        "self.broker.positions[key] = max(stored, *(last for _, last in ranges))",
        "self.broker.positions[key] = max(stored, *(first for first, _ in ranges))",
    ),
    Mutation(
        "settle acknowledges up to the end of the log",
        "self.broker.positions[key] = max(stored, *(last for _, last in ranges))",
        "self.broker.positions[key] = self.broker.logs[partition].end",
    ),
    Mutation(
        "skip lowers a position",
        "self.broker.positions[key] = max(stored, _offset(claim.target) or 0)",
        "self.broker.positions[key] = _offset(claim.target) or 0",
    ),
    Mutation(
        "skip stops one message before its target",
        "self.broker.positions[key] = max(stored, _offset(claim.target) or 0)",
        "self.broker.positions[key] = max(stored, (_offset(claim.target) or 1) - 1)",
    ),
    Mutation(
        "skip moves to the end as it is now, past its target",
        "self.broker.positions[key] = max(stored, _offset(claim.target) or 0)",
        "self.broker.positions[key] = self.broker.logs[claim.partition].end",
    ),
    Mutation(
        "a second lane starts at the log's start and lowers the position",
        "self._at[claim.partition] = max(stored, *(_offset(each) or 0 for each in known))",
        "self._at[claim.partition] = _offset(known[2]) or 0; self._broker.positions.clear()",
    ),
    Mutation(
        "restore of None leaves what is stored",
        "self.broker.positions.pop(key, None)",
        "pass",
    ),
    Mutation(
        "restore reports success and writes nothing",
        "self.broker.positions[key] = _offset(position) or 0",
        "pass",
    ),
)

PENDING = (
    Mutation(
        "messages held by vanished consumers are not read",
        "for ranges in (queue.returned, queue.abandoned):",
        "for ranges in (queue.returned,):",
    ),
    Mutation(
        "messages held by vanished consumers are not counted",
        "return max(0, end - position - acked)",
        "held = sum(b - a for a, b in queue.abandoned) if queue else 0;"
        " return max(0, end - position - acked - held)",
    ),
    Mutation(
        "a lane keeps what it read and did not acknowledge",
        "self._source.give_back(partition, ranges)",
        "pass",
    ),
)

TRANSLATION = (
    Mutation("broken connections are not translated", "except DisconnectedError:", "except OSError:"),
    Mutation("denied access is not translated", "except AccessDeniedError:", "except OSError:"),
    *(
        Mutation(f"{name} lets the library's errors out", old, new)
        for name, old, new in (
            ("survey", 'self._ask("surveying")', "self._client.request()"),
            ("remaining", 'self._ask("asking what is left")', "self._client.request()"),
            ("skip", 'self._ask("skipping")', "self._client.request()"),
            ("restore", 'self._ask("restoring")', "self._client.request()"),
            ("open_lane", 'with _translated("opening a lane", self._broker):', "if True:"),
            ("read", 'with _translated("reading", broker):', "if True:"),
            ("settle", 'with _translated("acknowledging", broker):', "if True:"),
        )
    ),
    Mutation(
        "a connection that breaks is final",
        'raise TransientError(\n            f"No answer',
        'raise BrokerError(\n            f"No answer',
    ),
    Mutation(
        "denied access is transient",
        'raise BrokerError(\n            f"{broker.address} denied',
        'raise TransientError(\n            f"{broker.address} denied',
    ),
    Mutation(
        "a missing topic is not an error of usage",
        'return UsageError(f"There is no topic',
        'return BrokerError(f"There is no topic',
    ),
    Mutation(
        "a missing topic is not named",
        "There is no topic {name!r} on the memory broker.",
        "There is no such topic on the memory broker.",
    ),
    Mutation(
        "an unreachable broker is not named",
        'f"No answer from {broker.address} while',
        'f"No answer while',
    ),
)

SECRETS = (
    Mutation(
        "an error of a broken connection has a secret",
        'except DisconnectedError:\n        raise TransientError(\n            f"No answer',
        'except DisconnectedError as error:\n        raise TransientError(\n            f"{error} No answer',
    ),
    Mutation(
        "an error of denied access has a secret",
        'except AccessDeniedError:\n        raise BrokerError(\n            f"',
        'except AccessDeniedError as error:\n        raise BrokerError(\n            f"{error}',
    ),
    Mutation(
        "a note has a secret",
        "partitions=tuple(sorted(states, key=lambda state: state.partition)),",
        "partitions=tuple(states), notes=(f'logged in with {self.password}',),",
    ),
    Mutation(
        "a state has a secret",
        "partitions = sorted(p for p in broker.logs if p.topic in self.topics)",
        "partitions = sorted(p for p in broker.logs if p.topic in self.topics)\n"
        "            return Survey('s', {'topic': self.topic, 'group': self.group}, tuple(PartitionState("
        "p, broker.position(self.group, p), 0, broker.logs[p].end,"
        " self._backlog(p, broker.logs[p].end), undo=str(self.password)) for p in partitions))",
    ),
    Mutation(
        "a log record has a secret",
        "def _ask(self, doing: str) -> None:",
        f"def _ask(self, doing: str) -> None:\n        {_LOG}.debug('login %s', self.password)",
    ),
    Mutation(
        "a receipt has a secret",
        'identity={"topic": self.topic, "group": self.group}',
        'identity={"topic": self.topic, "group": self.group, "login": str(self.password)}',
    ),
)

WAITS = (
    Mutation("a read outlasts its wait", "wait(min(max_wait_s, 0.01))", "wait(max_wait_s + 0.5)"),
    Mutation("a read without messages never ends", "wait(min(max_wait_s, 0.01))", "wait(60)"),
    Mutation(
        "a call waits longer than is allowed for a silent broker",
        "def _ask(self, doing: str) -> None:",
        "def _ask(self, doing: str) -> None:\n"
        "        if self.broker.way == 'stalled': threading.Event().wait(3)",
    ),
)

COUNTS = (
    Mutation(
        "messages of a refused partition are counted",
        "Settled(partition, 0, None, broker.refused[partition])",
        "Settled(partition, sum(b - a for a, b in ranges), None, broker.refused[partition])",
    ),
    Mutation(
        "a refused partition is reported as settled",
        "Settled(partition, 0, None, broker.refused[partition])",
        "Settled(partition, sum(b - a for a, b in ranges), None)",
    ),
    Mutation(
        "a settle without an answer is counted",
        'with _translated("acknowledging", broker):\n            self._client.request()',
        "try:\n            self._client.request()\n        except LibraryError:\n            return"
        " [Settled(p, sum(b - a for a, b in r), None) for p, r in self._unsettled.items()]",
    ),
    Mutation(
        "messages that another process acknowledged are counted",
        "sum(max(0, last - max(first, stored)) for first, last in ranges)",
        "sum(last - first for first, last in ranges)",
    ),
    Mutation(
        "a settle of nothing counts messages",
        "if not self._unsettled:\n            return ()",
        "if not self._unsettled:\n            return [Settled(p, 1, None) for p in self._at]",
    ),
    Mutation(
        "a refused partition ends the others",
        "done.append(Settled(partition, 0, None, broker.refused[partition]))",
        "raise BrokerError(broker.refused[partition], partition)",
    ),
    Mutation(
        "a skip reports a refused partition as moved",
        "done.append(Outcome(claim.partition, None if error else claim.target, error))",
        "done.append(Outcome(claim.partition, claim.target))",
    ),
    Mutation(
        "acknowledgements that the broker lost are counted",
        "elif acknowledged > self._shown[partition]:",
        "elif acknowledged < self._shown[partition]:",
    ),
    Mutation(
        "all that was acknowledged is taken off where the broker lost some",
        "min(messages, acknowledged - self._shown[partition])",
        "messages",
    ),
)

UNKNOWN = (
    Mutation(
        "a broker that does not answer has all acknowledgements",
        "if partition not in stored:\n                found[partition] = None",
        "if partition not in stored:\n                continue",
    ),
    Mutation(
        "a broker that does not answer has none of the acknowledgements",
        "if partition not in stored:\n                found[partition] = None",
        "if partition not in stored:\n                found[partition] = messages",
    ),
    Mutation(
        "an unknown backlog is 0",
        "if not self.broker.figures:\n            return None",
        "if not self.broker.figures:\n            return 0",
    ),
    Mutation(
        "a lane without figures reports that nothing is left",
        "if not self._broker.figures or self._source.traits.competing:\n            return None",
        "if not self._broker.figures or self._source.traits.competing:\n            return 0",
    ),
    Mutation(
        "a broker that does not answer has nothing left",
        'self._ask("asking what is left")',
        "try:\n            self._client.request()\n        except LibraryError:\n"
        "            return [Remaining(p, None, 0) for p in targets]",
    ),
    Mutation(
        "a broker that does not answer has no backlog",
        'self._ask("surveying")',
        "try:\n            self._client.request()\n        except LibraryError:\n"
        "            return Survey('s', {'topic': self.topic, 'group': self.group},"
        " tuple(PartitionState(p, 0, 0, 0, 0) for p in sorted(broker.logs)))",
    ),
)

IDENTITY = (
    Mutation(
        "the identity is empty", 'identity={"topic": self.topic, "group": self.group}', "identity={}"
    ),
    Mutation(
        "the identity has an empty value", '{"topic": self.topic, "group": self.group}', '{"group": ""}'
    ),
    Mutation(
        "the identity does not name the subscription",
        'identity={"topic": self.topic, "group": self.group}',
        'identity={"topic": self.topic}',
    ),
    Mutation(
        "the identity is another one in each source",
        'identity={"topic": self.topic, "group": self.group}',
        'identity={"topic": self.topic, "group": self.group, "object": str(id(self))}',
    ),
)

_ANOTHER = "return log is None or incarnation not in {None, log.incarnation}"

INCARNATIONS = (
    Mutation("a log that was created again is not noticed", _ANOTHER, "return log is None"),
    Mutation(
        "the survey does not report which log it saw",
        "log.end),\n                        incarnation=log.incarnation,\n",
        "log.end),\n",
    ),
    Mutation(
        "the figures do not report which log they are of",
        "incarnation=log.incarnation,\n        )",
        ")",
    ),
    Mutation(
        "a skip moves the position in a log created again",
        "if self.is_another(claim.partition, claim.state.incarnation):",
        "if False:",
    ),
    Mutation(
        "a restore writes to a log created again",
        "if self.is_another(partition, incarnation):",
        "if False:",
    ),
    Mutation(
        "a settle acknowledges messages of a log created again",
        "if self._source.is_another(partition, self._claimed[partition]):\n"
        "                    done.append(",
        "if False:\n                    done.append(",
    ),
    Mutation(
        "a lane reads on in a log created again",
        "self._check(self._turns)",
        "self._claimed = dict.fromkeys(self._claimed)",
    ),
)

_AGAIN = (
    "for _ in range(3):\n{0}try:\n{0}    {1}\n{0}    break\n{0}except DisconnectedError:\n{0}    pass\n"
)

RETRIES = (
    Mutation(
        "the source retries",
        "with _translated(doing, self.broker):\n            self._client.request()",
        _AGAIN.format(" " * 12, "self._client.request()")
        + "        else:\n            raise TransientError(f'no answer from {self.broker.address}')",
    ),
    Mutation(
        "a read retries",
        'with _translated("reading", broker):\n            self._client.request()',
        _AGAIN.format(" " * 12, "self._client.request()")
        + "        else:\n            raise TransientError('no answer')",
    ),
    Mutation(
        "a read hides that connections are refused",
        'with _translated("reading", broker):\n            self._client.request()',
        "try:\n            self._client.request()\n        except LibraryError:\n            return ()",
    ),
)

READS = (
    Mutation(
        "a read ignores its limit",
        "if max_messages is not None and max_messages < limit:",
        "if max_messages is not None and max_messages < 0:",
    ),
    Mutation(
        "a read goes past the target",
        "end = log.end if target is None else min(target, log.end)",
        "end = log.end",
    ),
    Mutation("a reached target is reported again", "self._turns.remove(partition)", "pass"),
    Mutation(
        "an empty partition is never reported",
        "if left == 0 and target is not None:",
        "if left == 0 and target is not None and count:",
    ),
    Mutation(
        "a partition that is followed is dropped at its end",
        "if left == 0 and target is not None:",
        "if left == 0:",
    ),
    Mutation(
        "a closed lane fails when it is closed again",
        '"""Give back what was not acknowledged, where lanes compete."""',
        "del self._targets",
    ),
    Mutation(
        "closing a lane acknowledges what was not settled",
        '"""Give back what was not acknowledged, where lanes compete."""',
        "[self._source.acknowledge(p, ranges) for p, ranges in self._unsettled.items()]",
    ),
    Mutation(
        "attached consumers are not reported",
        "live=broker.members.get(self.group, ()),",
        "",
    ),
)

_NO_ANSWER = "if broker.way == 'stalled':\n            return ()\n        "

ISOLATION = (
    Mutation(
        "a broken partition ends the survey",
        "states.append(failed_state(partition, BrokerError(broker.broken[partition])))",
        "raise BrokerError(broker.broken[partition], partition)",
    ),
    Mutation(
        "a broken partition is not surveyed",
        "states.append(failed_state(partition, BrokerError(broker.broken[partition])))",
        "pass",
    ),
    Mutation(
        "an error of one partition does not name it",
        'raise BrokerError(f"{partition}: {self._broker.broken[partition]}", partition)',
        'raise BrokerError(f"{partition}: {self._broker.broken[partition]}")',
    ),
    Mutation(
        "an error of one partition names another one",
        'raise BrokerError(f"{partition}: {self._broker.broken[partition]}", partition)',
        'raise BrokerError(f"{partition}: gone", Partition(partition.topic, partition.number + 1))',
    ),
    Mutation(
        "nothing is left in a broken partition",
        "return Remaining(partition, None, None, error)",
        "return Remaining(partition, None, 0)",
    ),
    Mutation(
        "a broken partition ends what is asked of the others",
        "return Remaining(partition, None, None, error)",
        "raise BrokerError(error, partition)",
    ),
    Mutation(
        "a broken partition ends a skip",
        "error = self._refusal(claim.partition)",
        "error = self._refusal(claim.partition)\n                if claim.partition in self.broker.broken:\n"
        "                    raise BrokerError(str(error), claim.partition)",
    ),
    Mutation(
        "a skip moves a broken partition",
        "return self.broker.broken.get(partition) or self.broker.refused.get(partition)",
        "return self.broker.refused.get(partition)",
    ),
    Mutation(
        "one missing topic of several ends the survey",
        "if not partitions:\n                raise",
        "if missing:\n                raise",
    ),
    Mutation(
        "one missing topic of several is not reported",
        "states = [failed_state(Partition(topic, 0), _no_topic(topic)) for topic in missing]",
        "states = []",
    ),
    Mutation(
        "a limit on consumers is an error of a partition",
        "allows {counted(broker.places, 'consumer')}.\")",
        "allows {counted(broker.places, 'consumer')}.\", next(iter(self._targets)))",
    ),
    Mutation(
        "partitions are looked for once",
        "partitions = sorted(p for p in broker.logs if p.topic in self.topics)",
        "partitions = self.__dict__.setdefault("
        "'seen', sorted(p for p in broker.logs if p.topic in self.topics))",
    ),
    Mutation("throttling is not reported", "self.throttled_s += broker.throttle_s", "pass"),
    Mutation(
        "a silent connection is not noticed",
        'with _translated("reading", broker):',
        f'{_NO_ANSWER}with _translated("reading", broker):',
    ),
    Mutation(
        "a request whose answer is too large is repeated unchanged",
        "self._limit = limit // 2",
        "pass",
    ),
    Mutation(
        "an answer that is too large is final",
        "return self._ask_for_less(partition, limit)",
        "raise BrokerError('too large', partition) from None",
    ),
    Mutation(
        "an answer that is too large is transient",
        "return self._ask_for_less(partition, limit)",
        "raise TransientError('too large', partition) from None",
    ),
    Mutation(
        "the library's error of an answer that is too large gets out",
        "except AnswerTooLargeError:",
        "except AccessDeniedError:",
    ),
)

MUTATIONS = (
    *POSITIONS,
    *PENDING,
    *TRANSLATION,
    *SECRETS,
    *WAITS,
    *COUNTS,
    *UNKNOWN,
    *IDENTITY,
    *INCARNATIONS,
    *RETRIES,
    *READS,
    *ISOLATION,
)
