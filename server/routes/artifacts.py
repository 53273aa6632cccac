"""Artifacts of Python jobs over HTTP: put by an admin, listed, taken away, and jobs made of them."""

from __future__ import annotations

from typing import Annotated, Any

from aiohttp import web
from pydantic import BaseModel, Field

from server.guard import read_body
from server.jobs import JOBS, Jobs
from server.problems import Problem, Refusal, refuse
from server.programs.manifest import PACKED_MAX, VERSION, Program
from server.programs.shelf import Kept
from server.routes.jobs import JobList, NewJobs, body_of, check_many, make_all, refusing
from server.routes.queries import json_answer
from server.routes.route import Answer, Route
from server.shared import shared_of
from sources.strict_yaml import ConfigError

OCTETS = "application/octet-stream"


class NewJobOfArtifact(NewJobs):
    """A Python job, of the version that was added last where none is said."""

    version: Annotated[str, Field(pattern=VERSION)] | None = None


class ArtifactTold(BaseModel):
    """One version of an artifact. `program`: its job.yaml. `jobs`: those that are made of it."""

    name: str
    version: str
    digest: str
    bytes: int
    added_us: int
    program: Program
    jobs: list[str]


class ArtifactListed(BaseModel):
    """An artifact and its versions, the oldest first."""

    name: str
    description: str
    versions: list[str]
    params: list[str]


class ArtifactListing(BaseModel):
    artifacts: list[ArtifactListed]


async def list_artifacts(request: web.Request) -> web.Response:
    """All artifacts and their versions."""
    shelf = request.app[JOBS].shelf

    def found() -> list[dict[str, Any]]:
        listed = []
        for name in shelf.names():
            versions = shelf.versions(name)
            program = versions[-1].read().program
            told = {"name": name, "description": program.description, "params": list(program.params)}
            listed.append({**told, "versions": [one.version for one in versions]})
        return listed

    return json_answer({"artifacts": await shared_of(request).call(found)})


async def get_artifact(request: web.Request) -> web.Response:
    """One version of an artifact: what its job.yaml says, and who uses it."""
    jobs, name, version = request.app[JOBS], request.match_info["name"], request.match_info["version"]
    found = await shared_of(request).call(lambda: refusing(lambda: told(jobs, jobs.shelf.get(name, version))))
    return json_answer(found)


async def put_artifact(request: web.Request) -> web.Response:
    """Keeps a zip as that version. The same bytes may be put again; others are refused."""
    raw = await read_body(request, PACKED_MAX)
    jobs, name, version = request.app[JOBS], request.match_info["name"], request.match_info["version"]

    def keep() -> tuple[dict[str, Any], bool]:
        try:
            kept, is_new = jobs.shelf.put(name, version, raw)
        except ConfigError as error:
            faults = [
                {"line": each.line, "column": each.column, "path": each.path, "message": each.message}
                for each in error.problems
            ]
            raise Refusal(Problem(422, "invalid-artifact", str(error), more={"errors": faults})) from None
        return told(jobs, kept), is_new

    document, is_new = await shared_of(request).call(lambda: refusing(keep))
    return json_answer(document, 201 if is_new else 200, Location=f"/v1/artifacts/{name}/{version}")


async def delete_artifact(request: web.Request) -> web.Response:
    """Takes a version away; refused while there are jobs of it."""
    jobs, name, version = request.app[JOBS], request.match_info["name"], request.match_info["version"]

    def drop() -> None:
        kept = jobs.shelf.get(name, version)
        users = users_of(jobs, kept)
        if users:
            hint = "Delete them first: " + ", ".join(users[:10]) + "."
            raise refuse(409, "artifact-in-use", f"{len(users)} jobs are made of it", hint)
        jobs.shelf.drop(kept)

    await shared_of(request).call(lambda: refusing(drop))
    return web.Response(status=204)


async def make_python_jobs(request: web.Request) -> web.Response:
    """A Python job, or several: one for each of a list of params. All or none of them are made."""
    said = NewJobOfArtifact.model_validate(await body_of(request))
    jobs, name = request.app[JOBS], request.match_info["name"]
    check_many(said)

    def make() -> list[dict[str, Any]]:
        kept = jobs.shelf.get(name, said.version)
        of = {"artifact": kept.name, "artifact_version": kept.version}
        return make_all(jobs, said, kept.read().program, of)

    return json_answer({"jobs": await shared_of(request).call(lambda: refusing(make))}, 201)


# --- what they share -----------------------------------------------------------------------------------------


def told(jobs: Jobs, kept: Kept) -> dict[str, Any]:
    artifact = kept.read()
    return {
        "name": kept.name,
        "version": kept.version,
        "digest": artifact.digest,
        "bytes": kept.bytes,
        "added_us": kept.added_us,
        "program": artifact.program.model_dump(mode="json", exclude_unset=True),
        "jobs": users_of(jobs, kept),
    }


def users_of(jobs: Jobs, kept: Kept) -> list[str]:
    wanted = (kept.name, kept.version)
    return [job.name for job in jobs.all() if (job.spec.artifact, job.spec.artifact_version) == wanted]


NAMES = {"name": "The artifact's name.", "version": "Its version, such as 1.0.2."}

ROUTES = (
    Route(
        "GET",
        "/v1/artifacts",
        list_artifacts,
        "List the artifacts of Python jobs",
        "artifact",
        (Answer(200, "The artifacts.", ArtifactListing),),
    ),
    Route(
        "GET",
        "/v1/artifacts/{name}/{version}",
        get_artifact,
        "Show an artifact",
        "artifact",
        (Answer(200, "The artifact.", ArtifactTold),),
        problems=(404,),
        path_notes=NAMES,
    ),
    Route(
        "PUT",
        "/v1/artifacts/{name}/{version}",
        put_artifact,
        "Keep an artifact: a zip with job.yaml and a module",
        "artifact",
        (
            Answer(200, "It was there.", ArtifactTold, headers=("Location",)),
            Answer(201, "It is kept.", ArtifactTold, headers=("Location",)),
        ),
        body_types=(OCTETS,),
        problems=(409, 422),
        path_notes=NAMES,
    ),
    Route(
        "DELETE",
        "/v1/artifacts/{name}/{version}",
        delete_artifact,
        "Take an artifact away",
        "artifact",
        (Answer(204, "It is gone."),),
        problems=(404, 409),
        path_notes=NAMES,
    ),
    Route(
        "POST",
        "/v1/artifacts/{name}/jobs",
        make_python_jobs,
        "Make Python jobs",
        "artifact",
        (Answer(201, "The jobs.", JobList),),
        body=NewJobOfArtifact,
        problems=(404, 409, 422),
        path_notes=NAMES,
    ),
)
