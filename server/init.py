"""What a process owes its family: the first one of a container to orphans, a child to the parent that it works for."""

import ctypes
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import threading
from multiprocessing import resource_tracker
from multiprocessing.context import BaseContext

STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # a terminal or a manager may send them to all at once
NO_PROCESS = (OSError, EOFError)  # out of processes, memory or files; and what is forked from ended as it forked

_PR_SET_PDEATHSIG, _PR_SET_NAME = 1, 15  # of <sys/prctl.h>


def run_as_child_of_init() -> None:
    """Where we are process 1, a child is the service from here on, and process 1 only its parent; otherwise nothing.

    A process whose parent ended becomes process 1's: whoever is that must wait for it, or it stays a zombie. The
    service could not tell such orphans from the children that it waits for itself. And the system drops a signal to
    process 1 that nobody handles yet, as SIGTERM while the service starts.
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
            os._exit(code if code >= 0 else 128 - code)  # as a shell does; what is left ends with process 1


def fork_server(*modules: str) -> BaseContext:
    """A context whose processes are forked from one that begins now to import `modules`: they have torch at once.

    A process of it calls `begin_worker` first; starting one raises NO_PROCESS. On macOS, where what has threads cannot
    be forked in safety, each imports for itself.
    """
    if sys.platform != "linux":
        return multiprocessing.get_context("spawn")
    if os.getcwd() not in sys.path:  # as for a command: what lies where it is typed is not to be imported
        os.environ["PYTHONSAFEPATH"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    # Signals that go to all processes at once are for the first one to act on: these two start with them blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        resource_tracker.ensure_running()  # which the fork server needs
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)  # again: that has unblocked two of them
        multiprocessing.forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


def begin_worker() -> None:
    """For a process of `fork_server`'s: it ends with the process that it works for, whatever ended that."""
    leave_group()
    _prctl(_PR_SET_NAME, b"cifar-worker")  # what top shows
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    threading.Thread(target=_end_with_parent, daemon=True).start()


def leave_group() -> None:
    """For a child: a Ctrl-C or a kill of the group is the main process's to act on, which ends us in order.

    When the process that forked us is killed with -9, Linux ends us too; elsewhere we would stay.
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
