"""Real Pulsar with TLS, tokens and permissions: logins that succeed, and errors of those that do not."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backlog_clearer.testing.relay import Relay
from backlog_clearer.testing.servers.pulsar import PASSWORD, PulsarServer, running_pulsar, token
from backlog_clearer.testing.servers.pulsar_judge import SUBSCRIPTION, Judge, unique
from backlog_clearer.testing.support import free_port, make_certificate, wait_until
from tests.command import Ran, cleaner, ended, started
from tests.oauth2_issuer import CLIENT, SECRET, issuing

MESSAGES = 700
EXPIRES_S, REFRESH_S = (
    20,
    2,
)  # a run starts within the former; the broker looks for expired tokens each second
TOKEN_HEAD = token().partition(".")[0]  # every token's first part


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Judge]:
    """Plain clients of a Pulsar that requires TLS and a token."""
    with running_pulsar(tmp_path_factory.mktemp("secure"), secure=True) as server:
        judge = Judge(server)
        yield judge
        judge.close()


@pytest.fixture
def topic(secure: Judge) -> str:
    """A topic of two partitions with a backlog."""
    name = secure.create(f"persistent://public/default/{unique('safe')}", 2)
    for number in range(2):
        secure.produce(f"{name}-partition-{number}", MESSAGES // 2, batch=50)
    return name


def left(judge: Judge, topic: str) -> int:
    """Entries that the broker still has to deliver."""
    return sum(judge.backlog(f"{topic}-partition-{number}") for number in range(2))


def arguments(server: PulsarServer, topic: str, receipts: Path, *more: str) -> list[str]:
    """The command line of the StreamNative profile, without its login."""
    return [
        "streamnative", "--service-url", f"pulsar+ssl://localhost:{server.secure_port}",
        "--admin-url", f"https://localhost:{server.secure_web}", "--topic", topic,
        "--subscription", SUBSCRIPTION, "--workers", "10", "--stop-when-empty",
        "--receipt-dir", str(receipts), *more,
    ]  # fmt: skip


def everything(ran: Ran, receipts: Path) -> str:
    """All texts that a run printed or stored."""
    stored = "".join(path.read_text() for path in receipts.rglob("*") if path.is_file())
    return ran.stdout + ran.stderr + stored


def test_a_token_is_renewed_during_a_run(secure: Judge, topic: str, tmp_path: Path) -> None:
    """When the token expires, the broker asks for the file's new one; the connection stays."""
    file = tmp_path / "token.jwt"
    expired_at = time.monotonic() + EXPIRES_S
    file.write_text(token(expires_in_s=EXPIRES_S))
    args = arguments(secure.server, topic, tmp_path / "receipts", "--token-file", str(file))
    args.remove("--stop-when-empty")
    follow = ("--tls-trust-certs", str(secure.server.ca), "--follow", "--max-seconds", "120")
    with started(*args, *follow) as process:
        wait_until(lambda: left(secure, topic) == 0, "the first messages")
        file.write_text(token())
        time.sleep(max(0.0, expired_at + REFRESH_S - time.monotonic()))  # then it was asked for again
        secure.produce(f"{topic}-partition-0", MESSAGES, batch=50)
        wait_until(lambda: left(secure, topic) == 0, "the later messages")
        process.send_signal(signal.SIGTERM)
        ran = ended(process)
    assert (ran.result["totals"]["messages"], ran.result["totals"]["retries"]) == (2 * MESSAGES, 0)
    assert TOKEN_HEAD not in everything(ran, tmp_path / "receipts")


def test_streamnative_without_a_subscription_creates_its_default_with_new(
    secure: Judge, topic: str, tmp_path: Path
) -> None:
    """As published, without --subscription: "backlog-clearer" is refused at first, and with --new created."""
    at = f"{topic}-partition-0".replace("://", "/")
    server = secure.server
    args = (
        "streamnative", "--service-url", f"pulsar+ssl://localhost:{server.secure_port}",
        "--admin-url", f"https://localhost:{free_port()},localhost:{server.secure_web}",
        "--topic", topic, "--token", "${env:PULSAR_TOKEN}", "--workers", "10", "--stop-when-empty",
        "--tls-trust-certs", str(server.ca), "--receipt-dir", str(tmp_path),
    )  # fmt: skip
    refused = cleaner(*args, env={"PULSAR_TOKEN": token()})
    assert (refused.code, "--new" in refused.stderr + refused.stdout) == (2, True), refused
    assert secure.admin("GET", f"{at}/subscriptions") == [SUBSCRIPTION]
    ran = cleaner(*args, "--new", env={"PULSAR_TOKEN": token()})
    assert (ran.code, ran.result["totals"]["messages"]) == (0, MESSAGES), ran.stderr
    assert secure.backlog(f"{topic}-partition-0", "backlog-clearer") == 0
    assert left(secure, topic) > 0  # other subscriptions keep theirs


def _in_the_environment(_: Path) -> list[str]:
    return ["--token", "${env:PULSAR_TOKEN}"]


def _in_a_file(folder: Path) -> list[str]:
    (folder / "token.jwt").write_text(token() + "\n")
    return ["--token-file", str(folder / "token.jwt")]


@pytest.mark.parametrize("login", [_in_the_environment, _in_a_file])
def test_streamnative_profile_clears(
    secure: Judge, topic: str, tmp_path: Path, login: Callable[[Path], list[str]]
) -> None:
    """Over TLS and with a token the backlog is cleared, and the token appears nowhere."""
    receipts, files = tmp_path / "receipts", tmp_path / "files"
    files.mkdir()
    secret = token()
    ran = cleaner(
        *arguments(secure.server, topic, receipts, *login(files)),
        *("--tls-trust-certs", str(secure.server.ca)),
        env={"PULSAR_TOKEN": secret},
    )
    assert (ran.code, ran.result["totals"]["messages"]) == (0, MESSAGES), ran.stderr
    assert left(secure, topic) == 0
    assert TOKEN_HEAD not in everything(ran, receipts)
    assert secret.rpartition(".")[2] not in everything(ran, receipts)


@pytest.mark.parametrize("good", [True, False])
def test_oauth2_client_credentials_log_in(
    secure: Judge, topic: str, tmp_path: Path, *, good: bool
) -> None:
    """A key file's client gets a token from its issuer; a wrong secret is reported and never shown."""
    receipts, key = tmp_path / "receipts", tmp_path / "key.json"
    secret = SECRET if good else "another-s3cret"
    key.write_text(json.dumps({"client_id": CLIENT, "client_secret": secret}))
    authorities = str(secure.server.ca)
    with issuing(token, secure.server.folder) as issuer:
        ran = cleaner(
            *arguments(secure.server, topic, receipts, "--oauth2-private-key", key.as_uri()),
            *("--oauth2-issuer-url", issuer.url, "--oauth2-audience", "urn:sn:pulsar:o:i"),
            *("--tls-trust-certs", authorities, "--oauth2-trust-certs", authorities),
        )
    assert ran.code == (0 if good else 1), ran.stderr
    assert (left(secure, topic) == 0) is good
    assert good or "--oauth2-audience" in ran.result["error"]
    assert secret not in everything(ran, receipts)
    assert TOKEN_HEAD not in everything(ran, receipts)


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(token(expires_in_s=-3600), id="expired"),
        pytest.param(
            token(key=b"a key of thirty-two bytes or more, but not the broker's"), id="forged"
        ),
        pytest.param("bm8gdG9rZW4=.YXQ.YWxs", id="garbage"),
        pytest.param(token("outsider"), id="without permission"),
    ],
)
def test_a_refused_token_changes_nothing(secure: Judge, topic: str, tmp_path: Path, wrong: str) -> None:
    """A token that is expired, forged, garbage or without permission: exit 1, the reason, nothing cleared."""
    before = left(secure, topic)
    ran = cleaner(
        *arguments(secure.server, topic, tmp_path, "--token", "${env:PULSAR_TOKEN}"),
        *("--tls-trust-certs", str(secure.server.ca)),
        env={"PULSAR_TOKEN": wrong},
    )
    assert ran.code == 1
    assert any(hint in ran.result["error"] for hint in ("--token", "permission"))
    assert left(secure, topic) == before > 0
    assert wrong not in everything(ran, tmp_path)


@pytest.mark.parametrize("login", ["token", "user", "certificate", "wrong token", "another name"])
def test_the_client_library_logs_in(secure: Judge, topic: str, tmp_path: Path, login: str) -> None:
    """With --reader client the same logins clear the backlog, and a refused one is named without it."""
    receipts, secret = tmp_path / "receipts", token("outsider" if login == "wrong token" else "admin")
    _, *args = arguments(secure.server, topic, receipts, "--tls-trust-certs", str(secure.server.ca))
    more = ["--token", "${env:PULSAR_SECRET}"]
    if login == "user":
        secret, more = f"admin:{PASSWORD}", ["--basic", "${env:PULSAR_SECRET}"]
    if login == "certificate":
        more = certificate(secure, tmp_path / "files", "admin")
    if login == "another name":
        args[args.index("--service-url") + 1] = f"pulsar+ssl://127.1:{secure.server.secure_port}"
        more += ["--max-retries", "1"]
    args += ["--reader", "client", *more]
    ran = cleaner("pulsar", *args, env={"PULSAR_SECRET": secret})
    if login in ("wrong token", "another name"):
        assert ran.code == 1, ran.stderr
        assert left(secure, topic) > 0
    else:
        assert (ran.code, ran.result["totals"]["messages"]) == (0, MESSAGES), ran.stderr
        assert "Reads with Pulsar's client library, as --reader asks for." in ran.stderr
        assert left(secure, topic) == 0
    assert secret not in everything(ran, receipts)
    assert PASSWORD not in everything(ran, receipts)


def certificate(secure: Judge, folder: Path, subject: str) -> list[str]:
    """The options of a certificate of this subject, made in a new folder."""
    folder.mkdir()
    for name in ("ca.pem", "ca.key"):
        shutil.copy(secure.server.ca.with_name(name), folder)
    make_certificate(folder, "client", subject)
    return ["--tls-certificate", str(folder / "client.crt"), "--tls-key", str(folder / "client.key")]


def with_certificate(secure: Judge, topic: str, folder: Path, subject: str, *more: str) -> Ran:
    """The plain profile with a certificate of this subject, and no token."""
    named, path, *_ = certificate(secure, folder, subject)
    _, *args = arguments(
        secure.server, topic, folder / "receipts", "--tls-trust-certs", str(secure.server.ca)
    )
    return cleaner("pulsar", *args, named, path, *more)


@pytest.mark.parametrize("subject", ["admin", "outsider"])
def test_certificates_log_in(secure: Judge, topic: str, tmp_path: Path, subject: str) -> None:
    """A certificate that the cluster permits clears the backlog; another one is refused."""
    folder = tmp_path / "files"
    key = ("--tls-key", str(folder / "client.key"))
    ran = with_certificate(secure, topic, folder, subject, *key)
    if subject == "admin":
        assert (ran.code, ran.result["totals"]["messages"]) == (0, MESSAGES), ran.stderr
    else:
        assert (ran.code, "--tls-certificate" in ran.result["error"]) == (1, True), ran.stderr
    assert (left(secure, topic) == 0) is (subject == "admin")


def test_a_certificate_without_its_key_is_wrong_use(secure: Judge, topic: str, tmp_path: Path) -> None:
    """A certificate that is given without its private key is wrong use, exit 2."""
    ran = with_certificate(secure, topic, tmp_path / "files", "admin")
    assert (ran.code, "--tls-key" in ran.stderr) == (2, True), ran.stderr
    assert left(secure, topic) > 0


@pytest.mark.parametrize("good", [True, False])
def test_a_user_and_a_password_log_in(secure: Judge, topic: str, tmp_path: Path, *, good: bool) -> None:
    """Basic authentication clears the backlog; a wrong password is reported and never shown."""
    receipts, password = tmp_path / "receipts", PASSWORD if good else "another-s3cret"
    ran = cleaner(
        *arguments(secure.server, topic, receipts, "--basic", "${env:PULSAR_USER}"),
        *("--tls-trust-certs", str(secure.server.ca)),
        env={"PULSAR_USER": f"admin:{password}"},
    )
    assert ran.code == (0 if good else 1), ran.stderr
    assert (left(secure, topic) == 0) is good
    assert good or "--basic" in ran.result["error"]
    assert password not in everything(ran, receipts)


@pytest.mark.parametrize("checked", [True, False])
def test_names_in_certificates_are_checked_unless_switched_off(
    secure: Judge, topic: str, tmp_path: Path, *, checked: bool
) -> None:
    """A trusted certificate of another name ends the run, unless the check of names is switched off."""
    args = arguments(secure.server, topic, tmp_path / "receipts", "--token", token())
    args = [each.replace("//localhost", "//127.1") for each in args]
    more = () if checked else ("--no-tls-validate-hostname",)
    ran = cleaner(*args, "--tls-trust-certs", str(secure.server.ca), *more)
    assert ran.code == (1 if checked else 0), ran.stderr
    assert not checked or "--no-tls-validate-hostname" in ran.result["error"]
    assert (left(secure, topic) == 0) is not checked


def test_an_sni_proxy_leads_to_every_broker(secure: Judge, topic: str, tmp_path: Path) -> None:
    """All connections to brokers go to the proxy, and the names of brokers to it and in their certificates."""
    server = secure.server
    _, *args = arguments(server, topic, tmp_path / "receipts", "--token", "${env:PULSAR_TOKEN}")
    args[args.index("--service-url") + 1] = f"pulsar+ssl://localhost:{free_port()}"
    with Relay("127.0.0.1", server.secure_port) as proxy:
        ran = cleaner(
            "pulsar", *args, "--tls-trust-certs", str(server.ca),
            "--proxy-service-url", f"pulsar+ssl://{proxy.address}", env={"PULSAR_TOKEN": token()},
        )  # fmt: skip
        assert (ran.code, ran.result["totals"]["messages"]) == (0, MESSAGES), ran.stderr
        assert proxy.received > 0
    assert left(secure, topic) == 0


def test_a_missing_login_is_named(secure: Judge, topic: str, tmp_path: Path) -> None:
    """Without a login the plain profile fails with the option that is missing."""
    args = arguments(secure.server, topic, tmp_path, "--tls-trust-certs", str(secure.server.ca))
    ran = cleaner("pulsar", *args[1:])
    assert (ran.code, "--token" in ran.result["error"]) == (1, True), ran.stderr


@pytest.mark.parametrize("tls", [True, False])
def test_a_port_of_the_other_kind_is_recognized(
    secure: Judge, topic: str, tmp_path: Path, *, tls: bool
) -> None:
    """TLS at a port without it, and the reverse, end in seconds with a question about the port."""
    server = secure.server
    url = f"pulsar+ssl://localhost:{server.port}" if tls else f"pulsar://localhost:{server.secure_port}"
    ran = cleaner(
        "pulsar", "--service-url", url, "--assume-exists", "--topic", topic,
        "--subscription", SUBSCRIPTION, "--receipt-dir", str(tmp_path),
        "--tls-trust-certs", str(server.ca),
    )  # fmt: skip
    expected = "its port for TLS" if tls else "want pulsar+ssl://"
    assert (ran.code, expected in ran.result["error"]) == (1, True), ran.stderr


def test_foreign_authority_is_refused(secure: Judge, topic: str, tmp_path: Path) -> None:
    """A certificate of an unknown authority ends the run before the token is sent."""
    before = left(secure, topic)
    ran = cleaner(
        *arguments(secure.server, topic, tmp_path, "--token", "${env:PULSAR_TOKEN}"),
        env={"PULSAR_TOKEN": token()},
    )
    assert (ran.code, "--tls-trust-certs" in ran.result["error"]) == (1, True), ran.stderr
    assert left(secure, topic) == before
    assert TOKEN_HEAD not in everything(ran, tmp_path)


def test_an_expired_token_is_recognized_without_the_admin_api(
    secure: Judge, topic: str, tmp_path: Path
) -> None:
    """Without the admin API, an expired token ends the run in seconds, too, with a hint."""
    args = arguments(secure.server, topic, tmp_path, "--token", "${env:PULSAR_TOKEN}")
    at = args.index("--admin-url")
    del args[at : at + 2]
    ran = cleaner(
        *args, "--assume-exists", "--tls-trust-certs", str(secure.server.ca),
        env={"PULSAR_TOKEN": token(expires_in_s=-60)},
    )  # fmt: skip
    assert (ran.code, "has it expired?" in ran.result["error"]) == (1, True), ran.stderr
    assert TOKEN_HEAD not in everything(ran, tmp_path)
