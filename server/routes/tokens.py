"""Tokens and the log of changes over HTTP: an admin's business."""

from __future__ import annotations

from typing import Any

from aiohttp import web
from pydantic import BaseModel

from mql.errors import MqlError
from server import encode
from server.keeping import KEEPER, TOKENS
from server.problems import Refusal, of_query
from server.routes.asking import STRING, count, number_in
from server.routes.jobs import body_of
from server.routes.queries import json_answer
from server.routes.route import JSON, Answer, Parameter, Route
from server.shared import shared_of
from server.tokens import NewToken, Token

CHANGES_MAX = 1_000


class TokenTold(BaseModel):
    """A token, without what its owner says."""

    name: str
    scope: str
    created: str
    expires: str | None
    quotas: dict[str, int]
    sources: list[str] | None
    hide: dict[str, list[str]]
    mask: dict[str, dict[str, str]]
    comment: str


class TokenMade(TokenTold):
    """A new token. `token` is what its owner is to send: it is not told again."""

    token: str


class TokenList(BaseModel):
    """Tokens by name. `needed`: whether a call needs one."""

    needed: bool
    tokens: list[TokenTold]


class Change(BaseModel):
    """One change: when, by whom (the token's name; null where none was needed), of what, and what was done."""

    id: int
    at_us: int
    who: str | None
    kind: str
    name: str
    action: str
    detail: dict[str, Any]


class ChangeLog(BaseModel):
    """The newest first."""

    changes: list[Change]


async def list_tokens(request: web.Request) -> web.Response:
    """All tokens."""
    tokens = request.app[TOKENS]
    await shared_of(request).call(tokens.load)
    return json_answer({"needed": tokens.needed, "tokens": [told(token) for token in tokens.all()]})


async def make_token(request: web.Request) -> web.Response:
    """A token. The first must be an admin's; from then on every call needs one."""
    said = NewToken.model_validate(await body_of(request))
    tokens = request.app[TOKENS]
    made, text = await shared_of(request).call(lambda: refusing(lambda: tokens.create(said)))
    return json_answer({**told(made), "token": text}, 201, Location=f"/v1/tokens/{made.name}")


async def delete_token(request: web.Request) -> web.Response:
    """Takes a token away: at once here, within seconds at other servers of the same store."""
    tokens, name = request.app[TOKENS], request.match_info["name"]
    await shared_of(request).call(lambda: refusing(lambda: tokens.delete(name)))
    return web.Response(status=204)


async def list_changes(request: web.Request) -> web.Response:
    """Who changed what: templates, jobs, silences, tokens. By kind, name or who."""
    n = number_in(request, "n", 100, 1, CHANGES_MAX)
    wanted = {name: said for name in ("kind", "name", "who") if (said := request.query.get(name)) is not None}
    keeper = request.app[KEEPER]

    def changes() -> list[dict[str, Any]]:
        found = keeper.open().changes(n, **wanted) if keeper.has_something else ()
        names = ("id", "at_us", "who", "kind", "name", "action", "detail")
        return [{name: one[name] for name in names} for one in found]

    return json_answer({"changes": await shared_of(request).call(changes)})


STATUS = {"unknown-token": 404, "token-exists": 409, "last-admin": 409, "too-many-tokens": 429}


def refusing(work: Any) -> Any:
    try:
        return work()
    except MqlError as error:
        raise Refusal(of_query(error, STATUS.get(error.code))) from None


def told(token: Token) -> dict[str, Any]:
    return {
        "name": token.name,
        "scope": token.scope,
        "created": encode.moment(token.created_us),
        "expires": None if token.expires_us is None else encode.moment(token.expires_us),
        "quotas": token.quotas.model_dump(exclude_none=True),
        "sources": None if token.grant.sources is None else list(token.grant.sources),
        "hide": {name: list(paths) for name, paths in token.grant.hide},
        "mask": {name: dict(masks) for name, masks in token.grant.mask},
        "comment": token.comment,
    }


ROUTES = (
    Route("GET", "/v1/tokens", list_tokens, "List tokens", "token", (Answer(200, "The tokens.", TokenList),)),
    Route(
        "POST",
        "/v1/tokens",
        make_token,
        "Make a token",
        "token",
        (Answer(201, "It is made; what its owner is to send is told this once.", TokenMade, headers=("Location",)),),
        body=NewToken,
        body_types=(JSON,),
        problems=(409, 422),
    ),
    Route(
        "DELETE",
        "/v1/tokens/{name}",
        delete_token,
        "Take a token away",
        "token",
        (Answer(204, "It is gone."),),
        problems=(404, 409),
        path_notes={"name": "The token's name."},
    ),
    Route(
        "GET",
        "/v1/changes",
        list_changes,
        "Read who changed what",
        "token",
        (Answer(200, "The changes.", ChangeLog),),
        (
            count("n", "At most so many.", 1, CHANGES_MAX),
            Parameter("kind", "Only of this kind: template, job, silence, token.", STRING),
            Parameter("name", "Only of what is called so.", STRING),
            Parameter("who", "Only by the owner of this token.", STRING),
        ),
        problems=(422,),
    ),
)
