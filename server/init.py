"""What a process owes its family: the first one of a container to orphans, a child to the parent that it works for."""

import multiprocessing
import os
import signal


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


def end_with_parent() -> None:
    """For a thread of a child that multiprocessing started: whatever ended the parent, the child ends too."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
