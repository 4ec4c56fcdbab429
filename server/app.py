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
from server.init import PROCESS_START_ERRORS, STOP_SIGNALS
from server.metrics import RECORDER, WORKER_RESTARTS, counting, metrics_folder
from server.settings import Settings, nvidia_gpus
from server.worker import ClassifierAPI, socket_path

# On a SIGINT after a SIGTERM uvicorn drops everything. The main process turns every Ctrl-C into a SIGTERM.
uvicorn.server.HANDLED_SIGNALS = (signal.SIGTERM,)  # type: ignore[assignment]  # typed as a pair

_UVICORN_CANCELS_S = 5  # for uvicorn to cancel the requests that its own timeout has left
_RETRY_START_S = 1  # before a worker that could not start, or that was perhaps told to end, is started again

log = logging.getLogger(__name__)


class StartError(Exception):
    """A worker ended before it was ready; it has said why."""


class ClassifierServer(litserve.LitServer):
    """LitServe's processes, with our own routes, and Unix sockets to the workers in place of its queue."""

    def __init__(self, settings: Settings, sockets: Path, processes: BaseContext) -> None:
        """The workers listen in the folder `sockets`; the context `processes` starts them."""
        self._settings = settings
        self._processes: Any = processes
        self._stopping, self._drained = threading.Event(), threading.Event()  # told to stop; no requests are left
        self.failed = False
        workers = settings.worker_count()
        self._threads = max(1, (cores() - settings.http_process_count()) // workers)
        self._api = ClassifierAPI(settings, sockets, self._threads)
        accelerator = settings.accelerator()
        devices = nvidia_gpus() if accelerator == "cuda" else 1
        super().__init__(self._api, accelerator=accelerator, devices=devices, workers_per_device=workers)
        count = len(self.devices) * workers
        self._engine = WorkerEngine([socket_path(sockets, worker_id) for worker_id in range(count)])
        self.app = build_app(settings, self._engine, self.lifespan)  # replaces LitServe's own app

    @contextlib.asynccontextmanager
    async def lifespan(self, app: FastAPI) -> AsyncIterator[None]:
        """The life of an HTTP process: it stays connected to the workers, and its metrics are written."""
        connecting = asyncio.create_task(self._engine.keep_connected())
        first = app.response_queue_id == 0  # type: ignore[attr-defined]  # LitServe's number of the process
        RECORDER.counts_reloads = first
        announcing = asyncio.create_task(self._announce()) if first else None
        gc.collect()
        gc.set_threshold(10_000)
        gc.freeze()  # what is loaded stays: a full collection would stop the event loop for nothing
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
        """Starts all workers; LitServe calls it once. Raises StartError."""
        try:
            return [self._start_worker(worker_id) for worker_id in range(self._engine.slots - 1)]
        except PROCESS_START_ERRORS as error:
            log.error("no worker can be started: %s", error)
            raise StartError from None

    def _start_worker(self, worker_id: int) -> BaseProcess:
        """As LitServe does, but forked by `fork_server`: a spawned process would first import torch, for seconds."""
        status = self.workers_setup_status
        status[f"predict_{worker_id}"] = WorkerSetupStatus.STARTING
        device = self.devices[worker_id % len(self.devices)]
        device = device[0] if isinstance(device, list) else device
        queue = transport = None  # our sockets replace them
        arguments = (self._api, device, worker_id, queue, transport, status, self._callback_runner, False)
        process: BaseProcess = self._processes.Process(target=inference_worker, args=arguments)
        process.start()
        return process

    def _start_worker_monitoring(self, manager: Any, uvicorn_workers: dict[Any, Any]) -> None:
        """In place of LitServe's, which looks only at the workers, every 2 s."""
        for process in uvicorn_workers.values():
            threading.Thread(target=self._end_with_http_process, args=[process], daemon=True).start()
        for worker_id in range(len(self.inference_workers)):
            threading.Thread(target=self._keep_worker_running, args=[worker_id], daemon=True).start()

    def _keep_worker_running(self, worker_id: int) -> None:
        """Starts another worker whenever this one has ended, for as long as there may be requests."""
        # A fork server that has to be restarted inherits this mask: see fork_server.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        while True:
            worker = self.inference_workers[worker_id]
            wait([worker.sentinel])
            # A signal to all processes may end a worker before this one has acted on it.
            told_to = worker.exitcode in (0, -signal.SIGTERM) and self._stopping.wait(_RETRY_START_S)
            if told_to or self._drained.is_set():
                return
            why = ", as a batch took too long" if worker.exitcode == -signal.SIGALRM else ""
            log.warning("worker %d ended with exit code %s%s: starting another", worker_id, worker.exitcode, why)
            try:
                if self.workers_setup_status[f"predict_{worker_id}"] != WorkerSetupStatus.READY:
                    self._drained.wait(_RETRY_START_S)
                self.inference_workers[worker_id] = self._start_worker(worker_id)
            except PROCESS_START_ERRORS as error:  # which may pass
                log.error("no worker can be started: %s", error)
                self._drained.wait(_RETRY_START_S)
                continue
            WORKER_RESTARTS.inc()
            if self._drained.is_set():  # it started too late to be among those that the shutdown ended
                self.inference_workers[worker_id].terminate()

    def _end_with_http_process(self, http_process: BaseProcess) -> None:
        """Ends the service when an HTTP process ends: nobody would answer at the port of a killed one."""
        wait([http_process.sentinel])
        mark_process_dead(http_process.pid, metrics_folder())  # type: ignore[no-untyped-call]  # its gauges go
        if self._stopping.is_set():
            return
        http_process.join()  # only now: if two threads wait for a process, one gets no exit code
        if http_process.exitcode != 0:  # 0: it was told to stop, as we are or soon will be
            log.error("an HTTP process ended with exit code %s: ending, to be restarted", http_process.exitcode)
            self.failed = True
        os.kill(os.getpid(), signal.SIGTERM)

    def _start_server(
        self, port: Any, num_uvicorn_servers: Any, log_level: Any, sockets: Any, uvicorn_worker_type: Any, **kwargs: Any
    ) -> Any:
        listening = [_bind_anew(bound_early) for bound_early in sockets]
        arguments = (port, num_uvicorn_servers, log_level, listening, uvicorn_worker_type)
        http_processes = super()._start_server(*arguments, **kwargs)  # type: ignore[no-untyped-call]
        for listener in listening:  # kept open here, it would accept connections after the HTTP processes stop to
            listener.close()
        return http_processes

    def _perform_graceful_shutdown(
        self, manager: Any, uvicorn_workers: dict[Any, Any], shutdown_reason: str = "normal"
    ) -> None:
        self._stopping.set()
        # All at once: LitServe ends one after the other, and the last would go on taking requests.
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
        """Waits until a worker is ready. Raises StartError if one ends first; LitServe would wait for ever."""
        logs.configure(self._settings.log_format, self._settings.log_level)  # again: run() has set LitServe's handlers
        while WorkerSetupStatus.READY not in self.workers_setup_status.values():
            if not all(worker.is_alive() for worker in self.inference_workers):
                raise StartError
            time.sleep(0.05)


def _bind_anew(bound: socket.socket) -> socket.socket:
    """A new socket, bound to the same address in place of `bound`.

    LitServe's manager process was forked with `bound`, and would keep it open after the HTTP processes close theirs:
    clients could still connect, and would wait in vain. A socket that nobody listens on, as the manager's now, does not
    accept them.
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
