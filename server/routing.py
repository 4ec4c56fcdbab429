"""What all routes share: how a request finds its route, its deadline, and the refusals that OpenAPI documents."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial
from http import HTTPStatus
from typing import Any, TypeVar

import orjson
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Router
from starlette.types import Lifespan, Receive, Scope, Send

from server.errors import PROBLEM, DeadlineExceeded, RequestTimeout, ServiceError, UnknownModel
from server.schemas import Problem, ProtocolProblem
from server.service import Service

Body = TypeVar("Body")
Answer = TypeVar("Answer")


def problems(
    *statuses: int, media_type: str = PROBLEM, schema: type[Problem] = Problem
) -> dict[int | str, dict[str, Any]]:
    """OpenAPI's `responses` for the statuses that a route may refuse with."""
    content = {media_type: {"schema": schema.model_json_schema()}}
    meanings = {kind.status: kind.__doc__ for kind in ServiceError.__subclasses__()}
    return {status: {"description": meanings[HTTPStatus(status)], "content": content} for status in statuses}


# The same under /v1 and /v2, whose clients expect application/json.
protocol_problems = partial(problems, media_type="application/json", schema=ProtocolProblem)


class DirectRoute(APIRoute):
    """Documented like any FastAPI route, but called directly: FastAPI's dependency injection costs some 35 µs."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        methods = self.methods or set()
        if scope["method"] in methods or (scope["method"] == "HEAD" and "GET" in methods):
            response = await self.endpoint(Request(scope, receive))
            await response(scope, receive, send)
        else:
            await super().handle(scope, receive, send)  # which refuses it with 405


class Routes(Router):
    """Looks the route up by method and path, and tries one route after another only if that finds none."""

    def __init__(self, routes: Sequence[BaseRoute], lifespan: Lifespan[Any]) -> None:
        super().__init__(routes, redirect_slashes=False, lifespan=lifespan)  # those lose a proxy's scheme and prefix
        direct = [route for route in routes if isinstance(route, DirectRoute) and not route.param_convertors]
        self._by_path = {(method, route.path): route for route in direct for method in route.methods or ()}

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        route = self._by_path.get((scope["method"], scope["path"])) if scope["type"] == "http" else None
        if route is None:
            return super().__call__(scope, receive, send)
        scope["route"] = route
        return route.handle(scope, receive, send)


def check_model(request: Request, service: Service) -> None:
    """Raises UnknownModel if the path names another model or version than is served; NotReady if none is."""
    served = service.model_name, service.card.version
    name, version = request.path_params["name"], request.path_params.get("version", served[1])
    if (name, version) != served:
        raise UnknownModel(
            f"no model is called {name!r}, version {version!r}: this service has {served[0]!r}, version {served[1]!r}"
        )


async def within(
    deadline_s: float, reading: Coroutine[Any, Any, Body], answer: Callable[[Body], Awaitable[Answer]]
) -> Answer:
    """The answer to the body read. Raises RequestTimeout if it was not read in `deadline_s`, else DeadlineExceeded."""
    body = None
    try:
        async with asyncio.timeout(deadline_s):
            body = await reading
            return await answer(body)
    except TimeoutError:
        raise (RequestTimeout if body is None else DeadlineExceeded)(deadline_s) from None


def json_response(content: Any) -> Response:
    return Response(orjson.dumps(content), media_type="application/json")
