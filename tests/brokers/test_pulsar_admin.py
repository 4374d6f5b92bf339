"""Pulsar's admin API: several hosts, redirects, and failures that are named for what they are."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from backlog_clearer.brokers.pulsar.admin import Admin
from backlog_clearer.brokers.pulsar.admin_connection import AdminHosts
from backlog_clearer.brokers.pulsar.auth import access
from backlog_clearer.brokers.pulsar.errors import UnreachableError
from backlog_clearer.brokers.pulsar.figures import Origins
from backlog_clearer.brokers.pulsar.lane_admin import LaneAdmin
from backlog_clearer.brokers.pulsar.options import PulsarOptions
from backlog_clearer.brokers.pulsar.service_url import admin_addresses
from backlog_clearer.errors import ClearerError, TransientError
from backlog_clearer.model import Partition
from backlog_clearer.testing.support import answering, free_port, make_certificates

ONE = Partition("persistent://public/default/t", 0)
TOPIC = "persistent://public/default/t"


@contextmanager
def serving(scheme: str, folder: Path, seen: list[str | None], onward: str = "") -> Iterator[str]:
    """A server that records the logins it gets, and redirects to another one, or has no partitions."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers["Authorization"])
            self.send_response(307 if onward else 200)
            if onward:
                self.send_header("Location", onward + self.path)
            body = b"" if onward else b'{"partitions": 0}'
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    context = None
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "server.crt", folder / "server.key")
    with answering(Handler, context) as port:
        yield f"{scheme}://127.0.0.1:{port}"


@pytest.mark.parametrize(
    ("first", "second", "shown"),
    [
        ("http", "http", True),
        ("http", "https", True),
        ("https", "https", True),
        ("https", "http", False),
    ],
)
def test_login_follows_to_the_owner(tmp_path: Path, first: str, second: str, *, shown: bool) -> None:
    """The login is sent to the broker that a redirect leads to, but never from HTTPS to HTTP."""
    make_certificates(tmp_path)
    seen: list[str | None] = []
    with serving(second, tmp_path, seen) as owner, serving(first, tmp_path, seen, owner) as asked:
        options = PulsarOptions(
            service_url="pulsar://127.0.0.1:7000",
            admin_url=asked,
            topic="t",
            subscription="s",
            tls_trust_certs=str(tmp_path / "ca.pem"),
            token="s3cret",
        )
        admin = Admin(AdminHosts((asked,)), options, access(options))
        with closing(admin):
            assert admin.partitions(TOPIC) == 0
    assert seen == ["Bearer s3cret", "Bearer s3cret" if shown else None]


def admin_for(*urls: str, **changes: str) -> Admin:
    """A session with an admin API at these addresses."""
    options = PulsarOptions(
        service_url="pulsar://127.0.0.1:7000", topic="t", subscription="s",
        admin_url=",".join(urls), **changes,
    )  # fmt: skip
    hosts = AdminHosts(admin_addresses(options.admin or ""))
    return Admin(hosts, options, access(options))


def failure(admin: Admin) -> ClearerError:
    """The error of one request."""
    with closing(admin), pytest.raises(ClearerError) as raised:
        admin.partitions(TOPIC)
    return raised.value


@contextmanager
def answering_with(status: int, body: bytes = b"", location: str = "") -> Iterator[str]:
    """A server that gives one answer to every request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            if location:
                self.send_header("Location", location)
            if status != HTTPStatus.NO_CONTENT:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    with answering(Handler) as port:
        yield f"http://127.0.0.1:{port}"


def test_hosts_are_asked_in_turn() -> None:
    """A host that does not answer is passed over, and the one that answered is asked first from then on."""
    seen: list[str | None] = []
    dead = f"http://127.0.0.1:{free_port()}"
    with serving("http", Path(), seen) as alive, closing(admin_for(dead, alive)) as admin:
        assert [admin.partitions(TOPIC) for _ in range(2)] == [0, 0]
        assert admin.url == alive
    assert len(seen) == 2


def test_a_host_that_is_starting_makes_way_for_the_next() -> None:
    """A 503 is an error that may pass, and the next attempt asks the next host."""
    with (
        answering_with(503) as starting,
        answering_with(200, b'{"partitions": 3}') as alive,
        closing(admin_for(starting, alive)) as admin,
    ):
        with pytest.raises(TransientError, match="503"):
            admin.partitions(TOPIC)
        assert admin.partitions(TOPIC) == 3


def test_hosts_of_which_none_answers_are_all_named() -> None:
    """Where no host answers, the error names each."""
    ports = free_port(), free_port()
    error = failure(admin_for(*(f"http://127.0.0.1:{port}" for port in ports)))
    assert isinstance(error, UnreachableError)
    assert all(str(port) in str(error) for port in ports)


def test_a_redirect_to_a_host_that_does_not_answer_names_both() -> None:
    """It is that topic's error, which may pass; the API itself is not taken for unreachable."""
    onward = f"http://127.0.0.1:{free_port()}"
    with answering_with(307, location=f"{onward}/x") as asked:
        error = failure(admin_for(asked))
    assert isinstance(error, TransientError)
    assert not isinstance(error, UnreachableError)
    assert f"{asked} redirects to {onward}, which does not answer" in str(error)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (404, b"<html>Not here</html>", "is not a Pulsar admin API: it answers 404"),
        (404, b"default backend - 404", "is not a Pulsar admin API: it answers 404"),
        (404, b'{"message": "no Route matched"}', "is not a Pulsar admin API: it answers 404"),
        (404, b"", "is not a Pulsar admin API: it answers 404"),
        (404, b'{"reason": "Topic not found"}', "Topic not found"),
        (200, b"<html>Please log in</html>", "is not a Pulsar admin API: it answers 200"),
        (204, b"", "the answer is empty"),
        (200, b"null", "the answer is empty"),
        (200, b"[]", "the answer is not an object"),
        (307, b"", "redirects without a usable address"),
        (405, b"", "answered 405"),
    ],
)
def test_an_answer_that_is_no_figure_is_named(status: int, body: bytes, expected: str) -> None:
    """Pages of other servers, empty answers and redirects to nowhere are errors, never figures."""
    with answering_with(status, body) as asked:
        error = failure(admin_for(asked))
    assert expected in str(error)
    assert "<html>" not in str(error)


def test_a_line_break_at_the_end_of_a_token_is_left_out() -> None:
    """A token that a file or an environment variable ends with a line break is sent without it."""
    seen: list[str | None] = []
    with serving("http", Path(), seen) as asked, closing(admin_for(asked, token="s3cret\n")) as admin:
        admin.partitions(TOPIC)
    assert seen == ["Bearer s3cret"]


def test_faults_of_tls_are_named_by_their_cause(tmp_path: Path) -> None:
    """A wrong authority, a wrong host name, a port without TLS and one that requires it differ."""
    make_certificates(tmp_path)
    trusted = {"tls_trust_certs": str(tmp_path / "ca.pem")}
    seen: list[str | None] = []
    with serving("https", tmp_path, seen) as secure, serving("http", tmp_path, seen) as plain:
        wrong_name = secure.replace("127.0.0.1", "127.0.0.2")
        found = {
            "local issuer certificate": failure(admin_for(secure)),
            "127.0.0.2": failure(admin_for(wrong_name, **trusted)),
            "does not use TLS on this port": failure(
                admin_for(plain.replace("http:", "https:"), **trusted)
            ),
            "require https://": failure(admin_for(secure.replace("https:", "http:"))),
        }
    for expected, error in found.items():
        assert expected in str(error), (expected, str(error))
    assert seen == []


def lane_admin(admin: Admin) -> LaneAdmin:
    """The checks of a lane of one partition, which looks at each settle."""
    return LaneAdmin(admin, "s", {ONE: TOPIC}, {ONE: Origins("then", "then")})


def test_a_check_that_is_answered_with_no_figures_stops_a_settle() -> None:
    """While the admin API has no figures of a topic, nothing of it is settled: it may be deleted."""
    with answering_with(503, b'{"reason": "The topic is being deleted"}') as asked:
        checks = lane_admin(admin_for(asked))
        for _ in range(2):
            with pytest.raises(TransientError, match="being deleted"):
                checks.changed([ONE])
        checks.close()


def test_a_check_that_is_not_answered_at_all_does_not_stop_a_drain() -> None:
    """An admin API that is down does not end lanes: the broker closes a consumer of a deleted topic itself."""
    checks = lane_admin(admin_for(f"http://127.0.0.1:{free_port()}"))
    assert checks.changed([ONE]) == {}
    checks.close()


def test_a_partition_that_is_another_one_stays_so_whichever_others_are_asked_about() -> None:
    """What a check found holds for every later settle, and a check of one partition is none of another."""
    other = Partition("persistent://public/default/t", 1)
    body = b'{"creationDate": "later", "cursors": {"s": {"creationDate": "then"}}}'
    with answering_with(200, body) as asked:
        admin = admin_for(asked)
        checks = LaneAdmin(
            admin,
            "s",
            dict.fromkeys((ONE, other), TOPIC),
            dict.fromkeys((ONE, other), Origins("then", None)),
        )
        for partitions in ([ONE], [other], [ONE, other], [ONE]):
            assert sorted(checks.changed(partitions)) == partitions
        checks.close()
