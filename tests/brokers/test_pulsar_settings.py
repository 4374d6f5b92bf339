"""Pulsar's options: valid and invalid addresses, and the admin URL that is derived from them."""

from __future__ import annotations

import pytest

from backlog_clearer.brokers.pulsar.options import PulsarOptions, StreamNativeOptions, derived_admin_url
from backlog_clearer.brokers.pulsar.service_url import Address, addresses, admin_addresses
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
def test_service_urls_name_one_host_or_several(url: str, hosts: list[Address]) -> None:
    """A service URL names one host or several, each with its port or the scheme's."""
    options = build(PulsarOptions, {**NAMES, "service_url": url, "admin_url": "http://a:8080"})
    assert addresses(options.service_url) == hosts


@pytest.mark.parametrize(
    ("url", "expected"),
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
def test_invalid_service_urls_are_refused(url: str, expected: str) -> None:
    """An invalid service URL is refused before any connection, without showing a password."""
    with pytest.raises(UsageError) as raised:
        build(PulsarOptions, {**NAMES, "service_url": url, "admin_url": "http://a:8080"})
    assert expected in str(raised.value)
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
def test_the_admin_url_is_derived_only_where_it_is_certain(url: str, admin: str | None) -> None:
    """The admin URL follows from default ports and StreamNative's hosts; otherwise it has to be given."""
    assert derived_admin_url(url) == admin
    values = {**NAMES, "service_url": url}
    if admin is None:
        with pytest.raises(UsageError, match="--admin-url is needed"):
            build(PulsarOptions, values)
    else:
        assert build(PulsarOptions, values).admin == admin


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"token": "a", "oauth2_key_file": __file__}, "give one of --token"),
        ({"basic": "me:s3cret", "token_file": __file__}, "give one of --token"),
        ({"auth_params": "token:a"}, "needs --auth-plugin"),
        ({"auth_plugin": "tokens"}, "it is token, basic, tls, oauth2"),
        ({"auth_plugin": "/" + "a" * 300}, "this plugin library does not exist"),
        (
            {"auth_plugin": "org.apache.pulsar.client.impl.auth.AuthenticationSasl"},
            "Kerberos only in its Java",
        ),
        (
            {"proxy_service_url": "pulsar+ssl://p:4443"},
            "needs a --service-url that starts with pulsar+ssl://",
        ),
        ({"proxy_service_url": "pulsar://p:4443"}, "write it as pulsar+ssl://HOST:PORT"),
        (
            {
                "service_url": "pulsar+ssl://a",
                "proxy_service_url": "pulsar+ssl://p",
                "reader": "client",
            },
            "needs --reader entries",
        ),
        ({"token": " \n"}, "--token: it is empty"),
        ({"basic": ""}, "--basic: it is empty"),
        ({"tls_key": __file__}, "--tls-key needs --tls-certificate"),
        ({"tls_certificate": __file__}, "starts with pulsar+ssl://"),
        ({"topic": "non-persistent://t/n/x"}, "keeps no backlog"),
        ({"topic": "a/b"}, "persistent://TENANT/NAMESPACE/TOPIC"),
    ],
)
def test_options_that_contradict_each_other_are_refused(changes: dict[str, str], expected: str) -> None:
    """Two logins, half of one, and topics that cannot have a backlog are refused with the reason."""
    with pytest.raises(UsageError) as raised:
        build(PulsarOptions, {**NAMES, "service_url": "pulsar://a", **changes})
    assert expected in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"service_url": "pulsar://c.snio.cloud", "token": "t"}, "must start with pulsar+ssl://"),
        ({"service_url": "pulsar+ssl://c.snio.cloud"}, "needs --token"),
    ],
)
def test_streamnative_needs_tls_and_a_login(changes: dict[str, str], expected: str) -> None:
    """The StreamNative profile is refused without TLS or without a login."""
    with pytest.raises(UsageError) as raised:
        build(StreamNativeOptions, {**NAMES, **changes})
    assert expected in str(raised.value)


def test_streamnative_has_a_default_subscription() -> None:
    """Without --subscription, the StreamNative profile uses "backlog-clearer"; the plain one requires one."""
    values = {"service_url": "pulsar+ssl://c.snio.cloud", "topic": "orders", "token": "t"}
    assert build(StreamNativeOptions, values).subscription == "backlog-clearer"
    with pytest.raises(UsageError, match="--subscription is required"):
        build(PulsarOptions, values)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://a:8080/", ("http://a:8080",)),
        ("http://a:8080,b:8081", ("http://a:8080", "http://b:8081")),
        ("https://a/pulsar,https://b:8443/", ("https://a/pulsar", "https://b:8443")),
        ("http://[::1]:8080,[::2]", ("http://[::1]:8080", "http://[::2]")),
        ("none", None),
    ],
)
def test_the_admin_api_may_have_several_addresses_or_none(
    text: str, expected: tuple[str, ...] | None
) -> None:
    """Addresses are separated by commas, as in service URLs; "none" switches the API off."""
    options = build(PulsarOptions, {**NAMES, "service_url": "pulsar://a", "admin_url": text})
    assert (None if options.admin is None else admin_addresses(options.admin)) == expected


@pytest.mark.parametrize(
    "text",
    ["a:8080", "http://a:8080,", "http://me:s3cret@a", "http://a:0", "ftp://a", "http://a?b=1", ""],
)
def test_an_admin_url_that_cannot_be_used_is_refused(text: str) -> None:
    """It is refused before any connection, and no password is shown."""
    with pytest.raises(UsageError, match="--admin-url") as raised:
        build(PulsarOptions, {**NAMES, "service_url": "pulsar://a", "admin_url": text})
    assert "s3cret" not in str(raised.value)
