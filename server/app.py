"""Puts the service on LitServe, which starts the workers and the HTTP processes, and restarts a worker that died."""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import AsyncIterator
from multiprocessing.connection import wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import litserve
import uvicorn.server
from fastapi import FastAPI
from litserve.loops import inference_worker
from litserve.utils import WorkerSetupStatus
from prometheus_client.multiprocess import mark_process_dead

from models.machine import cores
from server import logs
from server.asgi import build_app
from server.engine import WorkerEngine
from server.init import NO_PROCESS, STOP_SIGNALS
from server.metrics import SEEN, WORKER_RESTARTS, counting, folder
from server.settings import Settings, nvidia_gpus
from server.worker import ClassifierAPI, socket_path

# To uvicorn a SIGINT after a SIGTERM means: drop everything. The main process makes a SIGTERM of every Ctrl-C.
uvicorn.server.HANDLED_SIGNALS = (signal.SIGTERM,)  # type: ignore[assignment]  # typed as a pair

_UVICORN_CANCELS_S = 5  # what is still under way after its own timeout
_FAILED_START_S = 1  # until a worker that could not start is tried again

log = logging.getLogger(__name__)


class StartError(Exception):
    """A worker ended before it was ready; it has said why."""


class ClassifierServer(litserve.LitServer):
    """LitServe's processes, with our own routes, and sockets to the workers in place of its queue."""

    def __init__(self, settings: Settings, sockets: Path, processes: BaseContext) -> None:
        """The workers listen in the folder `sockets`, and are processes of `processes`."""
        self._settings = settings
        self._processes: Any = processes
        self._stopping, self._drained = threading.Event(), threading.Event()  # told to stop; nothing is left to answer
        self.failed = False
        workers = settings.worker_count()
        self._threads = max(1, (cores() - settings.http_process_count()) // workers)
        self._api = ClassifierAPI(settings, sockets, self._threads)
        accelerator = settings.accelerator()
        devices = nvidia_gpus() if accelerator == "cuda" else 1
        super().__init__(self._api, accelerator=accelerator, devices=devices, workers_per_device=workers)
        count = len(self.devices) * workers
        self._engine = WorkerEngine([socket_path(sockets, worker_id) for worker_id in range(count)])
        self.app = build_app(settings, self._engine, self.lifespan)  # for LitServe's own

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """An HTTP process, from its start to its end: connected to the workers."""
        connecting = asyncio.create_task(self._engine.keep_connected())
        first = app.response_queue_id == 0  # type: ignore[attr-defined]  # LitServe numbers its processes by it
        SEEN.counts_reloads = first
        announcing = asyncio.create_task(self._announce()) if first else None
        gc.collect()
        gc.set_threshold(10_000)
        gc.freeze()  # what is here stays: a full collection over it would stop the event loop for nothing
        async with counting():
            yield
        connecting.cancel()
        if announcing:
            announcing.cancel()

    async def _announce(self) -> None:
        card = await self._engine.wait_until_ready()
        scores = f", {card.scores.accuracy:.1%} right on {card.scores.n:,} held-out images" if card.scores else ""
        log.info("serving %s (%s%s)", self._settings.model_name, card.version, scores)
        log.info(
            "at %s://%s:%d, with %d worker(s) of %d thread(s) on %s and %d HTTP process(es) on %d cores",
            "https" if self._settings.ssl_certfile else "http",
            f"[{host}]" if ":" in (host := self._settings.host) else host,
            self._settings.port,
            self._engine.slots - 1,
            self._threads,
            self._settings.accelerator(),
            self._settings.http_process_count(),
            cores(),
        )

    def launch_inference_worker(self, lit_api: litserve.LitAPI) -> list[BaseProcess]:
        """LitServe calls it once. Raises StartError."""
        try:
            return [self._start_worker(worker_id) for worker_id in range(self._engine.slots - 1)]
        except NO_PROCESS as error:
            log.error("no worker can be started: %s", error)
            raise StartError from None

    def _start_worker(self, worker_id: int) -> BaseProcess:
        """As LitServe does, but for what its process is: one that is spawned would first import torch, for seconds."""
        status = self.workers_setup_status
        status[f"predict_{worker_id}"] = WorkerSetupStatus.STARTING
        device = self.devices[worker_id % len(self.devices)]
        device = device[0] if isinstance(device, list) else device
        queue = transport = None  # ours are sockets
        arguments = (self._api, device, worker_id, queue, transport, status, self._callback_runner, False)
        process: BaseProcess = self._processes.Process(target=inference_worker, args=arguments)
        process.start()
        return process

    def _start_worker_monitoring(self, manager: Any, uvicorn_workers: dict[Any, Any]) -> None:
        """In place of LitServe's, which looks every 2 s, and at the workers alone."""
        for process in uvicorn_workers.values():
            threading.Thread(target=self._watch, args=[process], daemon=True).start()
        for worker_id in range(len(self.inference_workers)):
            threading.Thread(target=self._replace, args=[worker_id], daemon=True).start()

    def _replace(self, worker_id: int) -> None:
        """Start another worker whenever this one has ended, for as long as there may be requests."""
        # What a fork server that has to be started anew inherits: see fork_server.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        while True:
            worker = self.inference_workers[worker_id]
            wait([worker.sentinel])
            told_to = self._stopping.is_set() and worker.exitcode == 0
            if told_to or self._drained.is_set():
                return
            why = ", as a batch took too long" if worker.exitcode == -signal.SIGALRM else ""
            log.warning("worker %d ended with %s%s: starting another", worker_id, worker.exitcode, why)
            try:
                if self.workers_setup_status[f"predict_{worker_id}"] != WorkerSetupStatus.READY:
                    self._drained.wait(_FAILED_START_S)
                self.inference_workers[worker_id] = self._start_worker(worker_id)
            except NO_PROCESS as error:  # perhaps not for long
                log.error("no worker can be started: %s", error)
                self._drained.wait(_FAILED_START_S)
                continue
            WORKER_RESTARTS.inc()
            if self._drained.is_set():  # whoever ends all workers may have looked at them before
                self.inference_workers[worker_id].terminate()

    def _watch(self, http_process: BaseProcess) -> None:
        """The port of an HTTP process that was killed, out of memory say, would stay open to nobody."""
        wait([http_process.sentinel])
        mark_process_dead(http_process.pid, folder())  # type: ignore[no-untyped-call]  # drops what it had in flight
        if self._stopping.is_set():
            return
        http_process.join()  # not before: of two threads that wait for a process, one gets no exit code
        if http_process.exitcode != 0:  # 0: it was told to stop, as we are, or soon
            log.error("an HTTP process ended with %s: ending, to be started anew", http_process.exitcode)
            self.failed = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _start_server(
        self, port: Any, num_uvicorn_servers: Any, log_level: Any, sockets: Any, uvicorn_worker_type: Any, **kwargs: Any
    ) -> Any:
        listening = [_bind_anew(bound_early) for bound_early in sockets]
        arguments = (port, num_uvicorn_servers, log_level, listening, uvicorn_worker_type)
        http_processes = super()._start_server(*arguments, **kwargs)  # type: ignore[no-untyped-call]
        for socket_of_theirs in listening:  # held here too, it would take connections after they have stopped to
            socket_of_theirs.close()
        return http_processes

    def _perform_graceful_shutdown(
        self, manager: Any, uvicorn_workers: dict[Any, Any], shutdown_reason: str = "normal"
    ) -> None:
        self._stopping.set()
        # All at once. LitServe ends one after the other, and the last would go on taking requests.
        http_processes = list(uvicorn_workers.values())
        for process in http_processes:
            process.terminate()
        give_up_at = time.monotonic() + self.uvicorn_graceful_timeout + _UVICORN_CANCELS_S
        for process in http_processes:
            process.join(max(0, give_up_at - time.monotonic()))
            if process.is_alive():
                process.kill()
        self._drained.set()
        super()._perform_graceful_shutdown(manager, {}, shutdown_reason)

    def verify_worker_status(self) -> None:
        """Wait until a worker is ready. Raises StartError when one ends first, for which LitServe waits for ever."""
        logs.configure(self._settings.log_format, self._settings.log_level)  # run() has given LitServe its own
        while WorkerSetupStatus.READY not in self.workers_setup_status.values():
            if not all(worker.is_alive() for worker in self.inference_workers):
                raise StartError
            time.sleep(0.05)


def _bind_anew(bound: socket.socket) -> socket.socket:
    """LitServe's manager process was forked with this one, and would keep it open when the HTTP processes close theirs.

    Who connects then would wait for nothing. A socket that nobody listens on, as the manager's is now, takes nobody.
    """
    address = bound.getsockname()
    bound.close()
    anew = socket.socket(bound.family)
    anew.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        anew.bind(address)
    except OSError as error:
        log.error("cannot listen on %s port %d any more: %s", *address[:2], error.strerror)
        raise StartError from None
    return anew
