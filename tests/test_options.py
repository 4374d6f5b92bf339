"""Options: parsing, references, and errors that list every fault and no secret."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from backlog_clearer.errors import UsageError
from backlog_clearer.model import Partition
from backlog_clearer.options.base import Name, Options, build
from backlog_clearer.options.references import resolve_references
from backlog_clearer.options.run import RunOptions, Slice


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("0", (0,)), ("0,3,5-8", (0, 3, 5, 6, 7, 8)), ("2-2, 1", (1, 2)), ("3,3", (3,))],
)
def test_partition_ranges_become_sorted_numbers(text: str, numbers: tuple[int, ...]) -> None:
    """Numbers and ranges become a sorted set of numbers."""
    assert build(RunOptions, {"partitions": text}).partitions == numbers


@pytest.mark.parametrize(
    "text", ["0-20000000", "0-99999,100000", "5-9999999999999999999", "0-4294967295", "9" * 5000]
)
def test_more_partitions_than_a_topic_has_are_refused(text: str) -> None:
    """A range is not expanded to more numbers than any topic has partitions."""
    with pytest.raises(UsageError, match="--partitions") as raised:
        build(RunOptions, {"partitions": text})
    assert "more than 100,000 partitions" in str(raised.value) or "not a partition" in str(raised.value)
    assert len(build(RunOptions, {"partitions": "0-99999"}).partitions or ()) == 100_000


def test_partitions_that_do_not_exist_are_named_in_one_line() -> None:
    """Of many partitions that do not exist the first are named, and how many more there are."""
    run = build(RunOptions, {"partitions": "0-50000"})
    with pytest.raises(UsageError, match="names 1, 2, 3, 4, 5 and 49,995 more, but") as raised:
        run.choose([Partition("t", 0)])
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize("text", ["a", "1-", "5-3", "-1", "1;2"])
def test_an_invalid_partition_range_is_refused(text: str) -> None:
    """Anything else is refused by the flag's name."""
    with pytest.raises(UsageError, match="--partitions"):
        build(RunOptions, {"partitions": text})


@given(total=st.integers(1, 50), partitions=st.integers(0, 200))
def test_slices_cover_every_partition_exactly_once(total: int, partitions: int) -> None:
    """The slices of a backlog are disjoint and together complete, without coordination."""
    all_of_them = [Partition("t", number) for number in reversed(range(partitions))]
    dealt = [
        partition.number
        for index in range(total)
        for partition in RunOptions(slice=Slice(index=index, total=total)).choose(all_of_them)
    ]
    assert sorted(dealt) == list(range(partitions))


@pytest.mark.parametrize("text", ["8/8", "1", "a/b", "1/0", "-1/3", "0/2000000000"])
def test_a_slice_outside_its_total_is_refused(text: str) -> None:
    """A slice outside its total is refused."""
    with pytest.raises(UsageError, match="--slice"):
        build(RunOptions, {"slice": text})


class _Named(Options):
    group_id: Name


@pytest.mark.parametrize("name", [" billing", "billing ", "\tbilling", "billing\n", " "])
def test_a_name_with_blanks_around_it_is_refused(name: str) -> None:
    """Some clients strip such blanks and others do not, so that two groups would be meant; inside they stay."""
    with pytest.raises(UsageError, match="--group-id: the name begins or ends with a blank"):
        build(_Named, {"group_id": name})
    assert build(_Named, {"group_id": "billing eu"}).group_id == "billing eu"


class _Login(Options):
    user: str
    password: SecretStr
    port: int


def test_every_fault_is_reported_at_once_without_values() -> None:
    """One error lists all faults, and none of the values, which may be secrets."""
    with pytest.raises(UsageError) as caught:
        build(_Login, {"password": "s3cret", "port": "s3cret", "usr": "s3cret"})
    text = str(caught.value)
    assert "--user is required" in text
    assert "--port" in text
    assert "Did you mean 'user'?" in text
    assert "s3cret" not in text


def test_references_are_replaced_at_any_depth(tmp_path: Path) -> None:
    """References to environment variables and files are replaced, however deep."""
    (tmp_path / "token").write_text("from-file\n")
    value = {"a": ["x-${env:NAME}", 1], "b": f"${{file:{tmp_path}/token}}", "c": "$NAME"}
    assert resolve_references(value, {"NAME": "from-env"}) == {
        "a": ["x-from-env", 1],
        "b": "from-file",
        "c": "$NAME",
    }


def test_missing_reference_names_the_variable() -> None:
    """A reference to nothing is an error, not an empty secret."""
    with pytest.raises(UsageError, match="NO_SUCH"):
        resolve_references("${env:NO_SUCH}", {})
