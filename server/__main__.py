"""cifar-serve: answers POST /predict with the class of an image.

$ cifar-serve --port 8000
$ curl --data-binary @cat.jpg localhost:8000/predict
"""

import contextlib
import fcntl
import functools
import importlib.util
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from server.settings import Settings

_MIN_FREE_BYTES = 16 * 2**20  # in the temporary folder
_MAX_FOLDER_PATH = 70  # bytes of its path, of the 107 that a Unix socket's address may have
_OPEN_FILES = 65_536


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0 after Ctrl-C or SIGTERM, 1 if the service cannot start or breaks down, 2 for wrong arguments."""
    if not importlib.util.find_spec("litserve"):
        print(
            "cifar-serve: the server is not installed: pip install '.[server]' in the folder of this repository",
            file=sys.stderr,
        )
        return 1
    from server import logs
    from server.init import run_as_child_of_init

    arguments = sys.argv[1:] if argv is None else argv
    if {"-h", "--help"} & set(arguments):
        from server.help import print_help

        try:
            print_help()
            sys.stdout.flush()
        except BrokenPipeError:  # `| head`; the interpreter's own flush at the end would fail too
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    run_as_child_of_init()
    try:
        _stop_on_signals()
        settings = read_settings(arguments)
        logs.configure(settings.log_format, settings.log_level)
        if problem := _cannot_start(settings):
            print(f"cifar-serve: {problem}", file=sys.stderr)
            return 1
        if settings.engine == "ray":
            from server.ray_run import serve_on_ray

            return serve_on_ray(settings)
        return serve(settings)
    except KeyboardInterrupt:  # before the service runs
        return 0


def read_settings(argv: Sequence[str]) -> "Settings":
    """From flags, else CIFAR_… environment variables, else defaults. Exits with 2 and a sentence if one is wrong."""
    from pydantic import ValidationError
    from pydantic_settings import CliApp, SettingsError

    from server.settings import Settings

    try:
        return CliApp.run(Settings, cli_args=list(argv))
    except SettingsError as error:
        sentence = str(error).removeprefix("error parsing CLI: ")
        print(f"cifar-serve: {sentence} (see cifar-serve --help)", file=sys.stderr)
    except ValidationError as error:
        for name, problem in {str(problem["loc"][0]): problem for problem in reversed(error.errors())}.items():
            flag, variable = f"--{name.replace('_', '-')}", f"CIFAR_{name.upper()}"
            given = "" if "key" in name else f", not {problem['input']!r}"  # never a secret
            print(f"cifar-serve: {flag} ({variable}): {problem['msg']}{given}", file=sys.stderr)
    sys.exit(2)


def _cannot_start(settings: "Settings") -> str | None:
    """Why not, or None. Checks what is quick to check; a worker says the rest when it loads the checkpoint."""
    from server.security import ApiKeys, KeysError, tls_problem

    try:
        ApiKeys(settings)
    except KeysError as error:
        return str(error)
    if problem := tls_problem(settings) or _no_temporary_folder():
        return problem
    checkpoint = settings.checkpoint_path()
    if not checkpoint.is_file():
        missing = f"{checkpoint} is a folder" if checkpoint.is_dir() else f"there is no checkpoint at {checkpoint}"
        return f"{missing}: train one with cifar-train, or name another with --checkpoint"
    if not settings.model_name.isprintable():  # answers carry it, as UTF-8
        return f"{str(checkpoint)!a} has characters in its name that no answer can show: rename it"
    if settings.forward == "onnxruntime" and (settings.device in ("cuda", "mps") or settings.gpus_per_worker):
        return "--forward onnxruntime runs on the CPU: choose --forward eager for a GPU, or ask for none"
    return _cannot_deploy(settings) if settings.engine == "ray" else _cannot_listen(settings)


def _cannot_deploy(settings: "Settings") -> str | None:
    if not importlib.util.find_spec("ray"):
        return "--engine ray: Ray is not installed: pip install '.[ray]' in the folder of this repository"
    if settings.device == "cuda" and not settings.gpus_per_worker:
        return "--device cuda on Ray: set --gpus-per-worker to the GPUs of each worker: 1, or a fraction such as 0.25"
    return None


def _cannot_listen(settings: "Settings") -> str | None:
    from server.settings import NO_GPU, nvidia_gpus

    if settings.device == "cuda" and not nvidia_gpus():
        return NO_GPU
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((settings.host, settings.port))
    except OSError as error:
        return f"cannot listen on {settings.host} port {settings.port} ({error.strerror}): choose another --port"
    return None


def _no_temporary_folder() -> str | None:
    try:
        folder = tempfile.gettempdir()
    except FileNotFoundError:
        return "no temporary folder can be written to: set TMPDIR to one that can"
    if len(os.fsencode(folder)) > _MAX_FOLDER_PATH:
        return f"the path of the temporary folder {folder} is too long for sockets in it: set TMPDIR to a shorter one"
    # The metrics are memory-mapped files there: on a full disk, writing to them would end the process with SIGBUS.
    if shutil.disk_usage(folder).free < _MIN_FREE_BYTES:
        return f"the temporary folder {folder} has less than {_MIN_FREE_BYTES:,} bytes left: set TMPDIR to another"
    return None


def serve(settings: "Settings") -> int:
    """Runs until Ctrl-C or SIGTERM; requests in flight are answered. Returns the exit code: 0, or 1 for a failure."""
    from server.init import fork_server, leave_group

    os.register_at_fork(after_in_child=leave_group)
    _allow_open_files()
    workers = fork_server("server.preload")  # first: it imports torch while we import the rest
    with tempfile.TemporaryDirectory(prefix="cifar-") as folder:
        _keep_from_cleaners(folder)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read when prometheus_client is imported
        from server.app import ClassifierServer, StartError
        from server.protocol import KEEP_ALIVE_S, OneWriteProtocol

        try:
            server = ClassifierServer(settings, Path(folder), workers)
            server.run(
                host=settings.host,
                port=settings.port,
                num_api_servers=settings.http_process_count(),
                log_level="warning",
                generate_client_file=False,
                access_log=False,  # uvicorn's; Boundary writes ours
                interface="asgi3",
                http=functools.partial(OneWriteProtocol, patience_s=settings.deadline_s),
                ws="none",
                timeout_keep_alive=KEEP_ALIVE_S,
                log_config=None,  # uvicorn then logs as we do
                ssl_certfile=settings.ssl_certfile,
                ssl_keyfile=settings.ssl_keyfile,
            )
        except StartError:
            return 1
        except (EOFError, ConnectionError):
            logging.getLogger(__name__).error("LitServe's manager process ended, and the service with it")
            return 1
        finally:
            for child in multiprocessing.active_children():
                child.terminate()
    return int(server.failed)


def _keep_from_cleaners(folder: str) -> None:
    """Locks the folder: systemd-tmpfiles removes what is ten days old from /tmp, except from locked folders."""
    with contextlib.suppress(OSError):  # not every file system has locks
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_SH)


def _allow_open_files() -> None:
    """Raises the limit of open files: each connection is one. The soft limit, often 1024, may be raised to the hard."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than its hard limit says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _stop_on_signals() -> None:
    main_process, stopping = os.getpid(), False

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal stopping
        # Not in an HTTP process, where uvicorn raises the signal again once it has drained; nor twice, which would
        # interrupt the shutdown.
        if os.getpid() == main_process and not stopping:
            stopping = True
            raise KeyboardInterrupt  # on which LitServe stops

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup sets it
        signal.signal(signal.SIGHUP, stop)  # the terminal was closed


if __name__ == "__main__":
    sys.exit(main())
