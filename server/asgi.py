"""The service as an ASGI application: our routes in a bare stack, over whichever engine runs the network."""

from collections.abc import Awaitable
from typing import Any

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Lifespan, Receive, Scope, Send

from server.engine import Engine
from server.middleware import Boundary
from server.routes import add_routes
from server.routing import Routes
from server.schemas import with_keys
from server.security import OPEN_PATHS, ApiKeys
from server.service import Service
from server.settings import Settings


class Application(FastAPI):
    """FastAPI, for its OpenAPI documents; requests go straight to our own layers."""

    needs_key = False

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        return with_keys(document, OPEN_PATHS) if self.needs_key else document

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:  # type: ignore[override]
        assert self.middleware_stack  # noqa: S101
        scope["app"] = self
        return self.middleware_stack(scope, receive, send)


def build_app(settings: Settings, engine: Engine, lifespan: Lifespan[Any]) -> Application:
    """The application, without gzip for every answer, exit stacks or a layer per concern: see Boundary and Routes."""
    app = Application(title="cifar-service", description="Classifies images with the network that you trained.")
    add_routes(app.router, Service(settings, engine))
    routes = Routes(app.router.routes, lifespan)
    keys = ApiKeys(settings)
    app.needs_key = bool(keys)
    app.middleware_stack = Boundary(routes, keys, settings)
    if settings.cors_origins:
        app.middleware_stack = CORSMiddleware(
            app.middleware_stack,
            allow_origins=[origin.strip() for origin in settings.cors_origins.split(",")],
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=["X-Request-ID", "Retry-After", "Inference-Header-Content-Length"],
        )
    return app
