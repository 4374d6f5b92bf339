"""Pulsar's options: which addresses are understood, what is told of those that are not, what is derived."""

from __future__ import annotations

import pytest

from backlog_clearer.brokers.pulsar.options import PulsarOptions, StreamNativeOptions, derived_admin_url
from backlog_clearer.brokers.pulsar.service_url import Address, addresses
from backlog_clearer.errors import UsageError
from backlog_clearer.options.base import build

NAMES = {"topic": "orders", "subscription": "billing"}


@pytest.mark.parametrize(
    ("url", "hosts"),
    [
        ("pulsar://a", [Address("a", 6650, tls=False)]),
        ("pulsar+ssl://a/", [Address("a", 6651, tls=True)]),
        ("pulsar://a:1,b,[::1]:2", [("a", 1, False), ("b", 6650, False), ("::1", 2, False)]),
        ("pulsar+ssl://[fe80::1%eth0],A:", [("fe80::1%eth0", 6651, True), ("a", 6651, True)]),
    ],
)
def test_hosts_of_a_service_url(url: str, hosts: list[Address]) -> None:
    """A service URL names one host or several, each with its port or the scheme's."""
    options = build(PulsarOptions, {**NAMES, "service_url": url, "admin_url": "http://a:8080"})
    assert addresses(options.service_url) == hosts


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://a:8080", "write it as pulsar://"),
        ("pulsar://a:1,:2", "write it as pulsar://"),
        ("pulsar://a:port", "'port'"),
        ("pulsar://a:70000", "'70000'"),
        ("pulsar://a,b:0", "the port of b is '0'"),
        ("pulsar://a:+1", "'+1'"),
        ("pulsar://[::1:6650", "write it as pulsar://"),
        ("pulsar://::1", "write it as pulsar://"),
        ("pulsar://a/b", "write it as pulsar://"),
        ("pulsar://me:secret@a", "use --token"),
    ],
)
def test_service_urls_that_are_none(url: str, said: str) -> None:
    """What is wrong with a service URL is told before anything is connected to, and no password."""
    with pytest.raises(UsageError) as raised:
        build(PulsarOptions, {**NAMES, "service_url": url, "admin_url": "http://a:8080"})
    assert said in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "admin"),
    [
        ("pulsar://a", "http://a:8080"),
        ("pulsar://[::1]:6650", "http://[::1]:8080"),
        ("pulsar+ssl://a:6651", "https://a:8443"),
        ("pulsar+ssl://c.o.aws-use2.snio.cloud:6651", "https://c.o.aws-use2.snio.cloud"),
        ("pulsar://a:7000", None),
        ("pulsar://a,b", None),
    ],
)
def test_admin_url_only_where_it_is_certain(url: str, admin: str | None) -> None:
    """Default ports and StreamNative's hosts tell where the admin API is; otherwise it is asked for."""
    assert derived_admin_url(url) == admin
    values = {**NAMES, "service_url": url}
    if admin is None:
        with pytest.raises(UsageError, match="--admin-url is needed"):
            build(PulsarOptions, values)
    else:
        assert build(PulsarOptions, values).admin == admin


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"token": "a", "oauth2_key_file": __file__}, "give one of --token"),
        ({"oauth2_key_file": __file__}, "needs --oauth2-issuer-url"),
        ({"tls_key": __file__}, "--tls-key needs --tls-certificate"),
        ({"tls_certificate": __file__}, "starts with pulsar+ssl://"),
        ({"topic": "non-persistent://t/n/x"}, "keeps no backlog"),
        ({"topic": "a/b"}, "persistent://TENANT/NAMESPACE/TOPIC"),
    ],
)
def test_what_does_not_go_together(changes: dict[str, str], said: str) -> None:
    """Two logins, half of one, and topics that cannot have a backlog are refused with the reason."""
    with pytest.raises(UsageError) as raised:
        build(PulsarOptions, {**NAMES, "service_url": "pulsar://a", **changes})
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"service_url": "pulsar://c.snio.cloud", "token": "t"}, "starts with pulsar+ssl://"),
        ({"service_url": "pulsar+ssl://c.snio.cloud"}, "needs --token"),
    ],
)
def test_streamnative_wants_tls_and_a_login(changes: dict[str, str], said: str) -> None:
    """The StreamNative profile is refused without TLS or without a login."""
    with pytest.raises(UsageError) as raised:
        build(StreamNativeOptions, {**NAMES, **changes})
    assert said in str(raised.value)
