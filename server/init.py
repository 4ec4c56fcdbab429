"""Processes: how the service runs as process 1 of a container, and how its children end with their parent."""

import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext

# A terminal or a service manager may send these to all our processes at once.
STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
# No process could be started: the system is out of processes, memory or files; or the fork server died meanwhile.
PROCESS_START_ERRORS = (OSError, EOFError)

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # of <sys/prctl.h>


def run_as_child_of_init() -> None:
    """If we are process 1, forks and returns in the child, which is the service; process 1 itself only waits.

    A process whose parent has ended becomes a child of process 1, which must wait for it, or it stays a zombie. The
    service could not tell such orphans from the children that it waits for itself. And the kernel drops a signal that
    process 1 has no handler for yet, such as SIGTERM while the service starts.
    """
    if os.getpid() != 1:
        return
    service = os.fork()
    if service == 0:
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: os.kill(service, number))
    while True:
        ended, status = os.wait()
        if ended == service:
            code = os.waitstatus_to_exitcode(status)
            os._exit(code if code >= 0 else 128 - code)  # as a shell does; all other processes end with process 1


def fork_server(*modules: str) -> BaseContext:
    """A context whose processes are forked from one that begins to import `modules` now: they have torch at once.

    Each of its processes must call `begin_worker` first; starting one raises PROCESS_START_ERRORS. Except on Linux they
    are spawned, and each imports for itself: macOS cannot safely fork a process that has threads.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    if os.getcwd() not in sys.path:  # as for a command: nothing is imported from where it is typed
        os.environ["PYTHONSAFEPATH"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    # On signals that go to all processes, only the first one acts: these two servers start with them blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        resource_tracker.ensure_running()  # the fork server needs it
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # again: the line above has unblocked two of them
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def begin_worker() -> None:
    """Must come first in a process of `fork_server`, which then ends with its parent, whatever ended that."""
    leave_group()
    _prctl(_PR_SET_NAME, b"cifar-worker")  # what top shows
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def leave_group() -> None:
    """For a child: a Ctrl-C or a kill of the group then reaches only the main process, which ends us in order.

    If the process that forked us is killed with -9, Linux ends us too; elsewhere we would stay.
    """
    os.setpgid(0, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _prctl(option: int, value: int | bytes) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def _end_with_parent() -> None:
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
