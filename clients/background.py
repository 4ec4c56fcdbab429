"""An event loop in a thread of its own, which runs coroutines for callers that have no loop."""

import asyncio
import os
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from inspect import CORO_CREATED, getcoroutinestate, iscoroutine
from typing import Any, TypeVar

T = TypeVar("T")


class ClosedError(RuntimeError):
    """The client is used after its end, or in another process than its own."""


class Background:
    """Any number of threads may share it."""

    def __init__(self, name: str) -> None:
        self._process = os.getpid()
        # What came after the loop's last pass would never be run, so nothing is submitted after the end. Reentrant: a
        # stream may be garbage-collected at any line, and then calls `finish`.
        self._submitting = threading.RLock()
        self._ending: Future[None] | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run_loop, name=name, daemon=True)
        self._thread.start()

    def _run_loop(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.get_loop().run_forever()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What `work` returns, or raises. Raises ClosedError where `close` comes before its end."""
        future = self._submit(work)
        try:
            return future.result()
        except CancelledError:
            raise ClosedError("the client is closed") from None
        finally:
            future.cancel()  # on Ctrl-C

    def finish(self, work: Coroutine[Any, Any, None]) -> None:
        """Runs what a stream does at its end; after `close`, which has cancelled the stream's requests, nothing."""
        if threading.current_thread() is self._thread:  # garbage-collected there: to wait would be a deadlock
            self._finishing = self._loop.create_task(work)
        else:
            with suppress(ClosedError):
                self.run(work)

    def close(self, last: Callable[[], Awaitable[None]]) -> None:
        """Cancels what is under way, runs `last` and ends the thread. Another call only waits for that."""
        if os.getpid() != self._process:
            return
        with self._submitting:
            self._ending = self._ending or asyncio.run_coroutine_threadsafe(self._end(last), self._loop)
        self._thread.join()
        self._ending.result()  # raises what `last` has raised

    async def _end(self, last: Callable[[], Awaitable[None]]) -> None:
        cancelled: set[asyncio.Task[Any]] = set()
        try:
            while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
                begun = set(filter(_has_begun, tasks - cancelled))
                for task in begun:
                    task.cancel()
                cancelled |= begun
                await asyncio.wait(tasks, timeout=0.01)
            await last()
        finally:
            self._loop.stop()

    def _submit(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        why = "the client is closed"
        if os.getpid() != self._process:  # a thread that was not taken along may hold the lock for ever
            why = "the client was made before this process was forked: make one in each process"
        else:
            with self._submitting:
                if not self._ending and not sys.is_finalizing():  # then our thread does not run any more
                    return asyncio.run_coroutine_threadsafe(work, self._loop)
        work.close()
        raise ClosedError(why)


def _has_begun(task: asyncio.Task[Any]) -> bool:
    """One of anyio's that is cancelled before it has begun leaves a coroutine behind, of which Python warns."""
    work = task.get_coro()
    return not (iscoroutine(work) and getcoroutinestate(work) == CORO_CREATED)
