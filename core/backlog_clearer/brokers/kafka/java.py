"""Settings of Kafka's Java clients in the words of librdkafka, where they mean just one thing. Pure.

Names and meanings: https://kafka.apache.org/documentation/#consumerconfigs, and for logins
https://kafka.apache.org/documentation/#security_sasl_jaasconfig.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_JAAS = "sasl.jaas.config"
_LOGIN = re.compile(
    r"\s*org\.apache\.kafka\.common\.security\.(?:plain\.Plain|scram\.Scram)LoginModule\s+(?i:required)"
    r"((?:\s+\w+\s*=\s*(?:\"[^\"\\]*\"|'[^'\\]*'))*)\s*;\s*"
)
_PAIR = re.compile(r"(\w+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)')")
_CHECKED_NAME = "ssl.endpoint.identification.algorithm"
_PEM = {
    "ssl.truststore.location": "ssl.ca.location",
    "ssl.truststore.certificates": "ssl.ca.pem",
    "ssl.keystore.certificate.chain": "ssl.certificate.pem",
    "ssl.keystore.key": "ssl.key.pem",
}
"""What is the same in both, if the store's type is PEM."""


def in_librdkafkas_words(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings, with those of Java replaced that mean just one thing; the others stay as they are.

    A login of `PlainLoginModule` or `ScramLoginModule` by user and password, stores of the types PEM and
    PKCS12, and '' for no check of the server's name. A reference, as in password="${env:NAME}", stays one.
    """
    found = dict(settings)
    login = _login(str(found.get(_JAAS, "")))
    if login is not None and not login.keys() & found.keys():
        del found[_JAAS]
        found.update(login)
    if found.get(_CHECKED_NAME) == "":
        found[_CHECKED_NAME] = "none"
    for store in ("truststore", "keystore"):
        kind = str(found.get(f"ssl.{store}.type", "")).upper()
        if kind == "PEM":
            _replace_pem(found, store)
        elif store == "keystore" and kind == "PKCS12":  # the only type that librdkafka takes
            del found["ssl.keystore.type"]
    return found


def _login(jaas: str) -> dict[str, str] | None:
    """User and password of a login by these two; None: it is another login, or not a simple one."""
    match = _LOGIN.fullmatch(jaas)
    if match is None:
        return None
    pairs = [(key, first or second) for key, first, second in _PAIR.findall(match[1])]
    options = dict(pairs)
    if len(options) != len(pairs) or options.keys() != {"username", "password"}:
        return None
    return {"sasl.username": options["username"], "sasl.password": options["password"]}


def _replace_pem(found: dict[str, Any], store: str) -> None:
    """Rename the settings of a store in PEM, unless librdkafka's own are there, too."""
    names: dict[str, tuple[str, ...]]
    if store == "keystore" and "ssl.keystore.location" in found:
        names = {"ssl.keystore.location": ("ssl.certificate.location", "ssl.key.location")}
    else:
        names = {key: (name,) for key, name in _PEM.items() if key.startswith(f"ssl.{store}.")}
    new = {name for key in names if key in found for name in names[key]}
    if not new or new & found.keys():
        return
    del found[f"ssl.{store}.type"]
    for key, targets in names.items():
        if key in found:
            value = found.pop(key)
            found.update(dict.fromkeys(targets, value))
