"""Puts the service on LitServe, which starts the workers and the HTTP processes, and restarts a worker that died."""

import asyncio
import contextlib
import gc
import logging
import time
from collections.abc import AsyncIterator
from pathlib import Path

import litserve
from fastapi import FastAPI
from litserve.utils import WorkerSetupStatus
from starlette.routing import Router

from server.engine import WorkerEngine
from server.middleware import Boundary
from server.routes import add_routes
from server.service import Service
from server.settings import Settings, cores
from server.worker import ClassifierAPI, socket_path

log = logging.getLogger(__name__)


class StartError(Exception):
    """A worker ended before it was ready; it has said why."""


class ClassifierServer(litserve.LitServer):
    """LitServe's processes, with our own routes, and sockets to the workers in place of its queue."""

    def __init__(self, settings: Settings, sockets: Path) -> None:
        self._settings = settings
        workers = settings.worker_count()
        threads = max(1, (cores() - settings.http_process_count()) // workers)
        super().__init__(
            ClassifierAPI(settings.checkpoint_path(), sockets, settings.reload, threads),
            accelerator=settings.accelerator(),
            workers_per_device=workers,
            restart_workers=True,
        )
        self.monitor_internal = 1  # seconds between looks at the workers; LitServe's own is 2
        count = len(self.devices) * workers
        self._engine = WorkerEngine([socket_path(sockets, worker_id) for worker_id in range(count)])
        self._replace_app()

    def _replace_app(self) -> None:
        """Our routes for LitServe's, and a bare stack around them: no gzip over every answer, no exit stacks."""
        app = self.app
        app.title, app.description = "cifar-service", "Classifies images with the network that you trained."
        app.router.routes.clear()
        add_routes(app.router, Service(self._settings, self._engine), self._settings)
        app.setup()  # FastAPI's /docs and /openapi.json again
        router = Router(app.router.routes, lifespan=self.lifespan)
        app.middleware_stack = Boundary(router, self._settings.max_body_bytes)

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """An HTTP process, from its start to its end: connected to the workers."""
        connecting = asyncio.create_task(self._engine.keep_connected())
        first = app.response_queue_id == 0  # type: ignore[attr-defined]  # LitServe numbers its processes by it
        announcing = asyncio.create_task(self._announce()) if first else None
        gc.collect()
        gc.freeze()  # what is here stays: a full collection over it would stop the event loop for nothing
        yield
        connecting.cancel()
        if announcing:
            announcing.cancel()

    async def _announce(self) -> None:
        card = await self._engine.ready()
        scores = f", {card.scores.accuracy:.1%} right on {card.scores.n:,} held-out images" if card.scores else ""
        log.info("serving %s (%s%s)", self._settings.model_name, card.version, scores)
        log.info(
            "at http://%s:%d, with %d worker(s) on %s and %d HTTP process(es) on %d cores",
            self._settings.host,
            self._settings.port,
            self._engine.slots - 1,
            self.devices[0],
            self._settings.http_process_count(),
            cores(),
        )

    def verify_worker_status(self) -> None:
        """Wait until a worker is ready. Raises StartError when one ends first, for which LitServe waits for ever."""
        while WorkerSetupStatus.READY not in self.workers_setup_status.values():
            if not all(worker.is_alive() for worker in self.inference_workers):
                raise StartError
            time.sleep(0.05)
