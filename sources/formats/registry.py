"""A schema registry: schemas by their number, over the REST interface of Confluent's (also Karapace's, Apicurio's).

A schema that has a number never changes, so what was fetched is kept. What is asked for and not there is asked for
again after a while; a registry that is away is left alone for a moment, longer each time.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import socket
import ssl
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from mql.errors import MqlError
from mql.exec.clock import Clock, SystemClock
from sources.formats.values import Unavailable
from sources.reach import Forbidden, Reach

SCHEMAS_MAX = 1_000
UNKNOWN_S = 30.0
LATEST_S = 30.0
WAITS_S = (0.5, 1.0, 2.0, 5.0, 10.0)
ANSWER_BYTES_MAX = 4 << 20
REFERENCES_MAX = 100
READ_BYTES = 1 << 16
ACCEPT = "application/vnd.schemaregistry.v1+json, application/json"


@dataclass(frozen=True, slots=True)
class RegistrySettings:
    """Where a registry is, and how to be let in. `url`: several with commas are tried in turn.

    `password_env`, `password_file`, `token_env`: where a secret stands, so that it need not stand in the YAML. `reach`:
    which addresses may be dialled; None: any, since the operator said which.
    """

    url: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    password_env: str | None = None
    password_file: str | None = None
    token_env: str | None = None
    ca_file: str | None = None
    timeout_s: float = 3.0
    reach: Reach | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """A schema: `kind` is AVRO, PROTOBUF or JSON. `references`: name and text of what it names, inner ones first."""

    kind: str
    text: str
    references: tuple[tuple[str, str], ...] = ()


class Unknown(ValueError):
    """The registry has no such schema."""


class Registry:
    """One registry, as a client sees it. Thread-safe; calls block, at most about `timeout_s` for each address."""

    def __init__(self, settings: RegistrySettings, clock: Clock | None = None) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self._addresses = tuple(checked_url(one.strip(), settings) for one in settings.url.split(",") if one.strip())
        if not self._addresses:
            raise invalid("registry.url is empty", "Write it like https://registry:8081.")
        check_secrets(settings)
        self._schemas: OrderedDict[int, Registered] = OrderedDict()
        self._unknown: dict[str, tuple[float, str]] = {}
        self._latest: dict[str, tuple[float, int]] = {}
        self._failures = 0
        self._away: str | None = None
        self._next_try_s = 0.0
        self._one_at_a_time = threading.RLock()

    def schema(self, id: int) -> Registered:
        """The schema of a number. Unknown where there is none, Unavailable where that can't be told now."""
        found = self._schemas.get(id)
        if found is not None:
            return found
        with self._one_at_a_time:
            if id not in self._schemas:
                self._keep(id, self._registered(self._get(f"/schemas/ids/{id}", f"schema {id}")))
            return self._schemas[id]

    def latest(self, subject: str) -> int:
        """The number of a subject's newest schema; as above."""
        with self._one_at_a_time:
            now = self._clock.monotonic_s()
            at_s, known = self._latest.get(subject, (0.0, 0))
            if known and now - at_s < LATEST_S:
                return known
            said = self._get(f"/subjects/{quote(subject, safe='')}/versions/latest", f'subject "{subject}"')
            id = said.get("id")
            if not isinstance(id, int):
                raise Unknown(f'the registry tells no number for subject "{subject}"')
            if id not in self._schemas:
                self._keep(id, self._registered(said))
            self._latest[subject] = (now, id)
            return id

    def _keep(self, id: int, schema: Registered) -> None:
        self._schemas[id] = schema
        while len(self._schemas) > SCHEMAS_MAX:
            self._schemas.popitem(last=False)

    def _registered(self, said: Mapping[str, Any]) -> Registered:
        text = said.get("schema")
        if not isinstance(text, str):
            raise Unknown("the registry's answer holds no schema")
        found: dict[str, str] = {}
        self._refer(said, found, ())
        return Registered(str(said.get("schemaType") or "AVRO"), text, tuple(found.items()))

    def _refer(self, said: Mapping[str, Any], found: dict[str, str], inside: tuple[str, ...]) -> None:
        """Adds what a schema refers to, and what that refers to, before it."""
        for one in said.get("references") or ():
            name, subject, version = str(one["name"]), str(one["subject"]), one["version"]
            if name in found or name in inside:
                continue
            if len(found) + len(inside) >= REFERENCES_MAX:
                raise Unknown(f"the schema refers to more than {REFERENCES_MAX} others")
            path = f"/subjects/{quote(subject, safe='')}/versions/{quote(str(version), safe='')}"
            other = self._get(path, f'"{name}" (version {version} of subject "{subject}")')
            self._refer(other, found, (*inside, name))
            found[name] = str(other.get("schema", ""))

    # --- over HTTP --------------------------------------------------------------------------------------

    def _get(self, path: str, what: str) -> Mapping[str, Any]:
        now = self._clock.monotonic_s()
        at_s, message = self._unknown.get(path, (0.0, ""))
        if message and now - at_s < UNKNOWN_S:
            raise Unknown(message)
        if self._away is not None and now < self._next_try_s:
            raise Unavailable(self._away)
        try:
            found = self._ask(path, what)
        except Unavailable as away:
            self._away = str(away)
            self._next_try_s = self._clock.monotonic_s() + WAITS_S[min(self._failures, len(WAITS_S) - 1)]
            self._failures += 1
            raise
        except Unknown as unknown:
            self._back()
            if len(self._unknown) >= SCHEMAS_MAX:
                self._unknown.clear()
            self._unknown[path] = (now, str(unknown))
            raise
        self._back()
        return found

    def _back(self) -> None:
        self._away, self._failures = None, 0

    def _ask(self, path: str, what: str) -> Mapping[str, Any]:
        away: Unavailable | None = None
        for address in self._addresses:
            try:
                status, body = fetched(address, path, self.settings, self._clock)
            except (OSError, http.client.HTTPException) as error:
                why = "no answer in time" if isinstance(error, TimeoutError) else str(error) or type(error).__name__
                away = Unavailable(f"the schema registry at {address.told} cannot be reached: {why}")
                continue
            if status == 404:
                raise Unknown(f"{what} is not in the schema registry")
            if status != 200:
                away = Unavailable(f"the schema registry at {address.told}, asked for {what}, answered {status}")
                continue
            try:
                said = json.loads(body)
            except (ValueError, RecursionError):
                said = None
            if isinstance(said, dict):
                return said
            away = Unavailable(f"the schema registry at {address.told} gives no JSON")
        assert away is not None
        raise away


@dataclass(frozen=True, slots=True)
class Address:
    """Where a registry listens. `told`: as it may be shown, without secrets."""

    host: str
    port: int
    prefix: str
    secure: bool

    @property
    def told(self) -> str:
        return f"{'https' if self.secure else 'http'}://{self.host}:{self.port}{self.prefix}"


def invalid(message: str, hint: str) -> MqlError:
    return MqlError(message, hint=hint, code="invalid-source")


def checked_url(url: str, settings: RegistrySettings) -> Address:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise invalid(f'"{url[:100]}" is no address: {error}', "Write it like https://registry:8081.") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise invalid(f'"{url[:100]}" is no address of a registry', "Write it like https://registry:8081.")
    if parts.username or parts.password or parts.query or parts.fragment:
        hint = "Give username and password_env (or token_env) beside it."
        raise invalid("registry.url holds more than an address", hint)
    secure = parts.scheme == "https"
    if not secure and settings.reach is not None and not settings.reach.plain:
        raise invalid(f'"{url[:100]}" is not https', "Say https://…, or declare the source in mql.yaml.")
    return Address(parts.hostname, port or (443 if secure else 80), parts.path.rstrip("/"), secure)


def check_secrets(settings: RegistrySettings) -> None:
    passwords = [one for one in (settings.password, settings.password_env, settings.password_file) if one is not None]
    if (settings.username is None) != (not passwords) or len(passwords) > 1:
        raise invalid(
            "a registry's username needs one password, and a password a username",
            "Give `username` and one of `password_env`, `password_file` and `password`.",
        )
    if settings.username is not None and settings.token_env is not None:
        raise invalid("a registry takes a token or a password", "Leave one of them out.")
    for file in (settings.ca_file, settings.password_file):
        if file is not None and not Path(file).is_file():
            raise invalid(f'there is no file "{file}"', "Check the path.")


def authorization(settings: RegistrySettings) -> str | None:
    """Read for each request, since a file or a variable may be changed while we run."""
    for name in (settings.token_env, settings.password_env):
        if name is not None and name not in os.environ:
            raise OSError(f"the environment variable {name} is not set")
    if settings.token_env is not None:
        return f"Bearer {os.environ[settings.token_env]}"
    if settings.username is None:
        return None
    password = settings.password or ""
    if settings.password_env is not None:
        password = os.environ[settings.password_env]
    elif settings.password_file is not None:
        password = Path(settings.password_file).read_text().rstrip("\r\n")
    return "Basic " + base64.b64encode(f"{settings.username}:{password}".encode()).decode()


def fetched(address: Address, path: str, settings: RegistrySettings, clock: Clock) -> tuple[int, bytes]:
    """Status and body. A redirect is not followed. The whole takes no longer than `timeout_s`."""
    deadline_s = clock.monotonic_s() + settings.timeout_s
    said = authorization(settings)
    connection = Connection(address, settings)
    try:
        headers = {"Accept": ACCEPT, "User-Agent": "mql"} | ({"Authorization": said} if said else {})
        connection.request("GET", address.prefix + path, headers=headers)
        answer = connection.getresponse()
        body = bytearray()
        while piece := answer.read1(READ_BYTES):
            body += piece
            if len(body) > ANSWER_BYTES_MAX:
                raise OSError(f"its answer is bigger than {ANSWER_BYTES_MAX >> 20} MiB")
            if clock.monotonic_s() > deadline_s:
                raise TimeoutError
        return answer.status, bytes(body)
    finally:
        connection.close()


class Connection(http.client.HTTPConnection):
    """A connection to the address that was checked: no proxy, and no name that means another host a moment later."""

    def __init__(self, address: Address, settings: RegistrySettings) -> None:
        super().__init__(address.host, address.port, timeout=settings.timeout_s)
        self._address = address
        self._settings = settings

    def connect(self) -> None:
        found = socket.getaddrinfo(self._address.host, self._address.port, type=socket.SOCK_STREAM)
        last: OSError = OSError("it has no address")
        for family, kind, protocol, _, target in found:
            reach = self._settings.reach
            if reach is not None and not reach.permits(str(target[0])):
                last = Forbidden(f"{target[0]} is no address that may be dialled")
                continue
            dialled = socket.socket(family, kind, protocol)
            dialled.settimeout(self._settings.timeout_s)
            try:
                dialled.connect(target)
                if self._address.secure:
                    context = ssl.create_default_context(cafile=self._settings.ca_file)
                    dialled = context.wrap_socket(dialled, server_hostname=self._address.host)
            except OSError as error:
                dialled.close()
                last = error
                continue
            self.sock = dialled
            return
        raise last
