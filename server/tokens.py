"""Who may call: tokens with scopes, an end and quotas. A token itself is told once; what is kept is its hash.

While there is no token, whoever reaches the server may do everything, so it listens on this machine only. From the
first token on (or with `server.tokens: true`) every call needs one: `Authorization: Bearer mql_…`.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mql.errors import MqlError
from mql.exec.clock import Clock
from server.grants import WHOLE, Grant, grant_of

Scope = Literal["read", "write", "admin"]
SCOPES: Sequence[Scope] = ("read", "write", "admin")
"""Each may do what those before it may: ask and look; change templates, jobs, silences, take events in; the rest."""
PREFIX = "mql_"
NAME = r"^[A-Za-z][A-Za-z0-9_.-]{0,99}$"
Pattern = Annotated[str, Field(pattern=r"^[A-Za-z_*][A-Za-z0-9_.*-]{0,199}$")]
PathText = Annotated[str, Field(min_length=1, max_length=500)]
MaskKind = Literal["null", "hash", "partial"]
TOKENS_MAX = 1_000
LOOK_AGAIN_S = 5.0
"""So long a token that another server of the same store has taken away goes on to be taken here."""
FIRST = "first"

WHO: ContextVar[str | None] = ContextVar("who", default=None)
"""In whose name something is done, for the log of changes."""
ASKER: ContextVar[Token | None] = ContextVar("asker", default=None)
"""Whose request is being answered; None where no token is needed."""


class Quotas(BaseModel):
    """How much one token may do. What is above is answered 429."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    queries: int | None = Field(default=None, ge=0, le=1_000_000, description="that run at the same time")
    requests: int | None = Field(default=None, ge=1, le=1_000_000, description="a minute")


class NewToken(BaseModel):
    """A token to be made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, Field(pattern=NAME)]
    scope: Scope = "read"
    expires: datetime | None = Field(default=None, description="from when on it is not taken any more")
    quotas: Quotas = Quotas()
    sources: Annotated[list[Pattern], Field(min_length=1, max_length=100)] | None = Field(
        default=None, description="what it may read, by name or pattern: requests, job.*; everything where left out"
    )
    hide: dict[Pattern, Annotated[list[PathText], Field(min_length=1, max_length=100)]] = Field(
        default_factory=dict, max_length=100, description="properties that it may not read, by source or pattern"
    )
    mask: dict[Pattern, Annotated[dict[PathText, MaskKind], Field(min_length=1, max_length=100)]] = Field(
        default_factory=dict, max_length=100, description="properties that it gets in another form, likewise"
    )
    comment: str = Field(default="", max_length=1_000)

    @model_validator(mode="after")
    def limits_readers_alone(self) -> NewToken:
        if self.scope != "read" and (self.sources is not None or self.hide or self.mask):
            raise ValueError("sources, hide, mask are for the scope read: what others change runs in the server's name")
        return self

    @field_validator("expires")
    @classmethod
    def has_a_zone(cls, moment: datetime | None) -> datetime | None:
        if moment is None:
            return None
        if moment.tzinfo is None:
            raise ValueError("has no time zone: write Z behind it for UTC")
        if not 1971 <= moment.year < 9000:
            raise ValueError("is of the years from 1971 to 8999")
        return moment.astimezone(UTC)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is kept."""

    name: str
    digest: str
    scope: Scope
    created_us: int
    expires_us: int | None = None
    quotas: Quotas = Quotas()
    comment: str = ""
    grant: Grant = WHOLE

    def may(self, scope: Scope) -> bool:
        return SCOPES.index(self.scope) >= SCOPES.index(scope)


class Kept(BaseModel):
    """What the store remembers of a token besides its name and hash."""

    scope: Scope
    expires_us: int | None = None
    quotas: Quotas = Quotas()
    comment: str = ""
    sources: list[str] | None = None
    hide: dict[str, list[str]] = Field(default_factory=dict)
    mask: dict[str, dict[str, str]] = Field(default_factory=dict)


@dataclass(slots=True)
class Use:
    """How much a token was used in the minute that began then."""

    minute: int = 0
    requests: int = 0


@dataclass(frozen=True, slots=True)
class Book:
    """Where tokens are kept: all of them, one more, one less."""

    all: Callable[[], Sequence[Mapping[str, Any]]]
    add: Callable[[str, str, Mapping[str, Any]], int]
    drop: Callable[[str], bool]


@dataclass(slots=True)
class Tokens:
    """The tokens of one server. Thread-safe; `load`, `create` and `delete` block."""

    book: Book
    clock: Clock
    required: bool = False
    _known: Mapping[str, Token] = field(default_factory=dict)
    _uses: dict[str, Use] = field(default_factory=dict)
    _loaded_s: float | None = None
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @property
    def needed(self) -> bool:
        """Whether a call needs a token."""
        return self.required or bool(self._known)

    @property
    def is_stale(self) -> bool:
        return self._loaded_s is None or self.clock.monotonic_s() - self._loaded_s >= LOOK_AGAIN_S

    def load(self) -> None:
        found: dict[str, Token] = {}
        for row in self.book.all():
            kept = Kept.model_validate(row["spec"])
            found[row["digest"]] = token_of(row["name"], row["digest"], row["created_us"], kept)
        with self._guard:
            self._known, self._loaded_s = found, self.clock.monotonic_s()

    def all(self) -> Sequence[Token]:
        return sorted(self._known.values(), key=lambda token: token.name)

    def find(self, text: str) -> Token | None:
        """The token that this is; None where it is none, or not any more."""
        token = self._known.get(digest_of(text))
        if token is None or (token.expires_us is not None and token.expires_us <= self.clock.now_us()):
            return None
        return token

    def wait_s(self, token: Token) -> int | None:
        """Counts a request; how long to wait where there were too many in this minute."""
        if token.quotas.requests is None:
            return None
        now_s = self.clock.now_us() // 1_000_000
        with self._guard:
            use = self._uses.setdefault(token.name, Use())
            if use.minute != now_s // 60:
                use.minute, use.requests = now_s // 60, 0
            use.requests += 1
            return 60 - now_s % 60 if use.requests > token.quotas.requests else None

    def create(self, said: NewToken) -> tuple[Token, str]:
        """A new token, and what its owner is to say: told this once."""
        self.load()
        if not self._known and said.scope != "admin":
            hint = "Make one with the scope admin first: from then on nobody gets in without."
            raise MqlError("the first token must be an admin's", hint=hint, code="first-token")
        if len(self._known) >= TOKENS_MAX:
            raise MqlError(f"there are {TOKENS_MAX} tokens already", hint="Delete some.", code="too-many-tokens")
        text = PREFIX + secrets.token_urlsafe(32)
        expires_us = None if said.expires is None else round(said.expires.timestamp() * 1e6)
        told = said.model_dump(include={"scope", "comment", "sources", "hide", "mask"})
        if expires_us is not None and expires_us <= self.clock.now_us():
            hint = "Say a moment that is still to come."
            raise MqlError("a token that has expired already would let nobody in", hint=hint, code="expired")
        kept = Kept(**told, expires_us=expires_us, quotas=said.quotas)
        created_us = self.book.add(said.name, digest_of(text), kept.model_dump(mode="json"))
        self.load()
        return token_of(said.name, digest_of(text), created_us, kept), text

    def delete(self, name: str) -> None:
        """Nobody gets in with it any more. The last admin's goes last."""
        self.load()
        admins = [token.name for token in self._known.values() if token.scope == "admin"]
        if admins == [name] and len(self._known) > 1:
            hint = "Delete the others first, or make another admin's."
            raise MqlError(f'"{name}" is the last token of an admin', hint=hint, code="last-admin")
        if not self.book.drop(name):
            raise MqlError(f'no token "{name[:80]}"', hint="GET /v1/tokens lists them.", code="unknown-token")
        self.load()


def token_of(name: str, digest: str, created_us: int, kept: Kept) -> Token:
    grant = grant_of(kept.sources, kept.hide, kept.mask)
    return Token(name, digest, kept.scope, created_us, kept.expires_us, kept.quotas, kept.comment, grant)


def own_grant() -> Grant:
    """What may be read by whose request is being answered."""
    asker = ASKER.get()
    return WHOLE if asker is None else asker.grant


def digest_of(text: str) -> str:
    """What is kept of a token. It is random and long: no salt, no slow hash is needed."""
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()
