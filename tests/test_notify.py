"""`--notify`: what is posted, to whom it is not posted, and that a failure never changes a run."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from click.testing import Result

from backlog_clearer.brokers.memory.broker import MemoryBroker
from backlog_clearer.brokers.memory.source import MemorySource
from backlog_clearer.engine.drain import Halt
from backlog_clearer.errors import BrokerError, UsageError
from backlog_clearer.fanout.configuration import VARIABLE, load_config, parse_request
from backlog_clearer.fanout.slices import FollowUp, drain_slice
from backlog_clearer.options.hooks import checked_hook
from backlog_clearer.redaction.redact import redacted
from backlog_clearer.run import post, retry
from backlog_clearer.testing.support import answering, make_certificates, wait_until
from functions.job import main as job
from tests import memory_system
from tests.invoking import call, clear, stored, three_partitions

TOKEN = "s3cret-Token/of+a=hook"
PATH = "/services/T0ABCDEF/B0ABCDEF/x9Yz8Wv7Ut6Sr5Qp4On3Ml2K"
DONE = ("--stop-when-empty", "--workers", "1", "--output", "json", "--notify")


@dataclass
class Hook:
    """What a webhook got, and how it answers."""

    port: int = 0
    posts: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answer: Callable[[], int] = lambda: 200
    location: str = ""

    @property
    def url(self) -> str:
        """Its URL, with a path that is a secret."""
        return f"http://127.0.0.1:{self.port}{PATH}"


@contextmanager
def webhook(tls: ssl.SSLContext | None = None) -> Iterator[Hook]:
    """A server that takes posts."""
    hook = Hook()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == PATH
            hook.posts.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            hook.headers.append(dict(self.headers))
            self.send_response(hook.answer())
            if hook.location:
                self.send_header("Location", hook.location)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            hook.posts.append("GET")

        def log_message(self, *_: Any) -> None: ...

    with answering(Handler, tls) as port:
        hook.port = port
        yield hook


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hook]:
    """A webhook, beside which attempts follow each other at once."""
    monkeypatch.setattr(retry, "_WAIT_S", 0.001)
    with webhook() as made:
        yield made


@pytest.fixture
def broker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[MemoryBroker]:
    """Topic `orders` with 3 partitions of 1,000 messages, in an empty folder."""
    with three_partitions(monkeypatch, tmp_path) as made:
        yield made


def result_of(done: Result) -> dict[str, Any]:
    """The result of a run that is cleared, whatever became of its post; no output has the URL's secret."""
    assert done.exit_code == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["verdict"] == "cleared"
    texts = [done.output, *(path.read_text() for path in Path("receipts").rglob("*.json"))]
    assert not [text for text in texts if PATH in text or TOKEN in text]
    return result


def fault_of(done: Result) -> str:
    """The note on a post that failed, which result and receipt have, and stderr as a warning."""
    result = result_of(done)
    (note,) = result["notes"]
    assert json.loads(Path(result["receipt"]).read_text())["result"]["notes"] == [note]
    assert note in done.stderr
    assert "could not be posted to http" in note
    return str(note)


def test_the_result_is_posted_once(broker: MemoryBroker, hook: Hook) -> None:
    """The body is the object that `--output json` prints, sent as JSON in one request."""
    result = result_of(clear(*DONE, hook.url))
    assert hook.posts == [result]
    assert hook.headers[0]["Content-Type"] == "application/json"
    assert hook.headers[0]["User-Agent"].startswith("backlog-clearer/")
    assert "Authorization" not in hook.headers[0]
    assert stored(broker) == [1000] * 3


def test_url_and_authorization_may_be_references(
    broker: MemoryBroker, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`${env:NAME}` and `${file:PATH}` are resolved, and no output or receipt has what they refer to."""
    monkeypatch.setenv("HOOK_URL", hook.url)
    Path("token").write_text(f"Bearer {TOKEN}\n")
    args = ("${env:HOOK_URL}", "--notify-authorization", "${file:token}", "--log-level", "debug")
    result_of(clear(*DONE, *args))
    assert hook.headers[0]["Authorization"] == f"Bearer {TOKEN}"
    assert stored(broker) == [1000] * 3


def test_answers_that_may_pass_are_repeated(broker: MemoryBroker, hook: Hook) -> None:
    """After 500 and 429 the third attempt is delivered, and nothing is noted."""
    answers = iter([500, 429, 204])
    hook.answer = lambda: next(answers)
    assert result_of(clear(*DONE, hook.url))["notes"] == []
    assert len(hook.posts) == 3
    assert stored(broker) == [1000] * 3


@pytest.mark.parametrize(("status", "attempts"), [(500, retry.ATTEMPTS), (404, 1), (401, 1), (413, 1)])
def test_a_post_that_is_refused_is_a_note(
    broker: MemoryBroker, hook: Hook, status: int, attempts: int
) -> None:
    """The run stays cleared with exit 0; only what may pass is repeated, and not without end."""
    hook.answer = lambda: status
    assert f"it answered HTTP {status}" in fault_of(clear(*DONE, hook.url))
    assert len(hook.posts) == attempts
    assert stored(broker) == [1000] * 3


def test_a_stall_is_given_up(broker: MemoryBroker, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that never answers is given up after a bounded time and number of attempts."""
    released = threading.Event()
    monkeypatch.setattr(post, "ANSWER_S", 0.05)
    hook.answer = lambda: 200 if released.wait(60) else 500
    done = clear(*DONE, hook.url)
    wait_until(lambda: bool(hook.posts), "a post at the server, which may read it later")
    released.set()
    assert "no answer within" in fault_of(done)
    assert 1 <= len(hook.posts) <= retry.ATTEMPTS
    assert stored(broker) == [1000] * 3


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(broker: MemoryBroker, hook: Hook, status: int) -> None:
    """Another host that a redirect names gets nothing: neither the result nor the authorization."""
    with webhook() as other:
        hook.answer, hook.location = (lambda: status), f"http://localhost:{other.port}{PATH}"
        done = clear(*DONE, hook.url, "--notify-authorization", TOKEN)
        assert "redirects are not followed" in fault_of(done)
        assert (len(hook.posts), other.posts) == (1, [])
    assert stored(broker) == [1000] * 3


def test_a_server_that_is_not_there_is_a_note(broker: MemoryBroker, hook: Hook) -> None:
    """A refused connection is repeated a few times, and then a note that has no path."""
    assert "Connection refused" in fault_of(clear(*DONE, f"http://127.0.0.1:1{PATH}"))
    assert not hook.posts
    assert stored(broker) == [1000] * 3


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an authority, and of a certificate of localhost and 127.0.0.1."""
    folder = tmp_path_factory.mktemp("authority")
    make_certificates(folder)
    return folder


@pytest.mark.parametrize(
    ("where", "hint"),
    [
        ("localhost SSL_CERT_FILE", None),
        ("localhost UNUSED", "certificate is not trusted"),
        ("127.1 SSL_CERT_FILE", "certificate is not trusted"),  # the same server, by another name
    ],
)
def test_certificates_are_verified(
    broker: MemoryBroker, authority: Path, where: str, hint: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unknown authority and another host's certificate get nothing; SSL_CERT_FILE adds an authority."""
    host, variable = where.split()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority / "server.crt", authority / "server.key")
    monkeypatch.setenv(variable, str(authority / "ca.pem"))
    with webhook(tls) as hook:
        done = clear(*DONE, f"https://{host}:{hook.port}{PATH}")
        if hint is None:
            assert hook.posts == [result_of(done)]
        else:
            assert hint in fault_of(done)
            assert not hook.posts
    assert stored(broker) == [1000] * 3


def test_a_run_that_fails_is_posted(
    broker: MemoryBroker, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is printed instead of a result is posted, with the run and the system that it is about."""

    def refuse(*_: Any) -> None:
        raise BrokerError(f"refused at {hook.url}")

    monkeypatch.setattr(MemorySource, "survey", refuse)
    done = clear(*DONE, hook.url)
    assert done.exit_code == 1
    (post,) = hook.posts
    assert (post["verdict"], post["kind"], post["system"]) == ("not_cleared", "BrokerError", "memory")
    assert post["run_id"]
    assert json.loads(done.stdout)["error"] == post["error"]
    assert PATH not in done.output + json.dumps(post)
    assert stored(broker) == [None] * 3


def test_what_changes_nothing_is_not_posted(broker: MemoryBroker, hook: Hook) -> None:
    """A dry run posts nothing, and `status` refuses the option."""
    assert clear(*DONE, hook.url, "--dry-run").exit_code == 0
    done = call("status", "memory", "--topic", "orders", "--group-id", "billing", "--notify", hook.url)
    assert (done.exit_code, "--notify has no meaning for status" in done.stderr) == (2, True)
    assert not hook.posts
    assert stored(broker) == [None] * 3


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        (f"ftp://host{PATH}", "https://HOST/PATH"),
        (f"file://{PATH}", "https://HOST/PATH"),
        (PATH, "https://HOST/PATH"),
        (f"https:{PATH}", "https://HOST/PATH"),
        (f"https://host:port{PATH}", "https://HOST/PATH"),
        (f"https://[::1{PATH}", "https://HOST/PATH"),
        (f"https://user:{quote(TOKEN, safe='')}@host{PATH}", "--notify-authorization"),
        (f"https://host{PATH} x", "encode it"),
        (f"https://host{PATH}\r\nX: y", "encode it"),
        (f"https://höst{PATH}", "encode it"),
        (f"https://host{PATH}#x", "leave it out"),
    ],
)
def test_a_wrong_url_is_named_and_not_shown(broker: MemoryBroker, url: str, hint: str) -> None:
    """It is refused before anything is connected, by the option's name and without its value."""
    done = clear(*DONE, url)
    assert (done.exit_code, hint in done.output) == (2, True), done.output
    assert "--notify" in done.output
    assert PATH not in done.output
    assert TOKEN not in done.output
    assert stored(broker) == [None] * 3


@pytest.mark.parametrize(
    ("args", "hint"),
    [
        (["--notify-authorization", TOKEN], "needs --notify"),
        (["--notify", "http://host/x", "--notify-authorization", TOKEN], "needs https://"),
        (["--notify", "https://host/x", "--notify-authorization", f"{TOKEN}\nX: y"], "as a header"),
    ],
)
def test_an_authorization_is_not_sent_anywhere(
    broker: MemoryBroker, args: list[str], hint: str
) -> None:
    """Without a URL, without TLS to another machine, and with a line break it is refused, and not shown."""
    done = clear("--stop-when-empty", *args)
    assert (done.exit_code, hint in done.output) == (2, True), done.output
    assert TOKEN not in done.output
    assert stored(broker) == [None] * 3


def test_texts_of_libraries_have_no_url_of_a_hook() -> None:
    """Path, query and token of a hook are replaced wherever they are repeated; short paths stay."""
    checked_hook(f"https://hooks.example{PATH}?sig=abcdefgh12345678ijkl")
    text = redacted(f"Max retries exceeded with url: {PATH}?sig=abcdefgh12345678ijkl (x)")
    assert text == "Max retries exceeded with url: *** (x)"
    assert "x9Yz8Wv7Ut6Sr5Qp4On3Ml2K" not in redacted("token x9Yz8Wv7Ut6Sr5Qp4On3Ml2K unknown")
    checked_hook("https://hooks.example/hook")
    assert redacted("the folder /hook and 'backlog'") == "the folder /hook and 'backlog'"


def configured(hook: Hook, **settings: Any) -> dict[str, str]:
    """The environment of a job whose configuration names a hook by references."""
    entry = {
        "system": "memory",
        "options": {"topic": "orders", "group_id": "billing"},
        "notify": "${env:HOOK_URL}",
        "notify_authorization": "Bearer ${env:HOOK_SECRET}",
        **settings,
    }
    return {
        VARIABLE: json.dumps({"receipts": "receipts", "backlogs": {"shop": entry}}),
        "HOOK_URL": hook.url,
        "HOOK_SECRET": TOKEN,
    }


def test_each_slice_of_a_job_posts_its_result(
    broker: MemoryBroker, hook: Hook, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two slices post one object each, with the run and the slice in it, as they are printed."""
    for index in range(2):
        args = ["--backlog", "shop", "--slice", str(index), "--total", "2", "--run-id", "run-1"]
        assert job.run(vars(job.arguments().parse_args(args)), configured(hook), Halt()) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert hook.posts == printed
    assert [(post["run_id"], post["slice"]) for post in hook.posts] == [
        ("run-1", "0/2"),
        ("run-1", "1/2"),
    ]
    assert {each["Authorization"] for each in hook.headers} == {f"Bearer {TOKEN}"}
    assert stored(broker) == [1000] * 3


def test_a_named_backlog_posts_on_the_command_line(
    broker: MemoryBroker, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run NAME` posts to the hook that the configuration names."""
    for name, value in configured(hook).items():
        monkeypatch.setenv(name, value)
    result = result_of(call("run", "shop", "--output", "json"))
    assert hook.posts == [result]
    assert stored(broker) == [1000] * 3


@pytest.mark.parametrize(("continues", "posts"), [(True, 0), (False, 1)])
def test_a_slice_that_is_continued_posts_at_its_end(
    broker: MemoryBroker, hook: Hook, continues: bool, posts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its deadline a slice posts nothing where a queue continues it, and where none does, its result."""
    memory_system.slow_down(monkeypatch, 0.05)
    environ = configured(hook, workers=1, batch_size=1)
    ran = drain_slice(
        load_config(environ), parse_request('{"backlog": "shop", "run_id": "run-1"}'),
        deadline_s=0.01, environ=environ, continues=continues,
    )  # fmt: skip
    assert ran.follow_up is FollowUp.CONTINUE
    assert len(hook.posts) == posts
    assert stored(broker) != [1000] * 3


def test_of_several_subscriptions_each_posts_its_own(broker: MemoryBroker, hook: Hook) -> None:
    """The result of the one that was cleared, and the error of the one that was refused."""
    broker.members["live"] = ("consumer-1",)
    done = call("memory", "--topic", "orders", "--group-id", "billing,live", *DONE, hook.url)
    assert done.exit_code == 1
    cleared, refused = hook.posts
    assert (cleared["verdict"], stored(broker)) == ("cleared", [1000] * 3)
    assert (refused["kind"], "1 consumer attached" in refused["error"]) == ("RefusedError", True)
    assert refused["run_id"].split(".")[0] == cleared["run_id"].split(".")[0]


def test_faults_of_a_hook_are_found_when_the_configuration_is_read(
    broker: MemoryBroker, hook: Hook
) -> None:
    """A URL that is none and a variable that is not set are listed at the start, without values."""
    environ = configured(hook)
    for change in ({"HOOK_URL": f"ftp://x{PATH}"}, {"HOOK_SECRET": None}):
        left = {name: value for name, value in {**environ, **change}.items() if value is not None}
        with pytest.raises(UsageError, match="backlog 'shop'") as refused:
            load_config(left)
        assert PATH not in str(refused.value)
    assert stored(broker) == [None] * 3


@pytest.mark.parametrize("name", ["notify", "notify_authorization"])
def test_a_request_names_no_hook(broker: MemoryBroker, hook: Hook, name: str) -> None:
    """A request with an address or a header is refused, like any field of the configuration."""
    with pytest.raises(UsageError, match="unknown option"):
        parse_request(json.dumps({"backlog": "shop", name: hook.url}))
    assert not hook.posts
    assert stored(broker) == [None] * 3
