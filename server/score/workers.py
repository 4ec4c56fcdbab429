"""Scores chunks in processes of this machine, or in actors of a Ray cluster. Parts come in any order."""

import itertools
import logging
import math
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from typing import Any, Literal

from models.checkpoint import CheckpointError, build_classifier
from models.machine import cores
from server.init import PROCESS_START_ERRORS, begin_worker, fork_server
from server.score.images import Chunk, Part, ScoreError
from server.settings import NO_GPU, Settings, nvidia_gpus

_MAX_DEATHS = 3  # of processes that scored the same chunk: then it is blamed
_WORKERS_PER_GPU = 4  # some decode while others run the network
_WINDOW = 256  # chunks that Ray has at a time: the names of all images might be too much for it

Device = Literal["auto", "cpu", "cuda", "mps"]
Arguments = tuple[Any, ...]  # of Scorer, without the device


def score_in_processes(
    scorer: Arguments, device: Device, workers: int | None, chunks: Iterator[Chunk]
) -> Generator[Part]:
    """A process that is killed is replaced. Raises ScoreError."""
    again, deaths = list[Chunk](), Counter[int]()
    busy: dict[Any, tuple[Connection, str, Chunk]] = {}
    processes: Any = fork_server(__name__, "server.score.scorer")
    with ExitStack() as stack:

        def give(device: str, worker: Connection | None = None) -> None:
            if chunk := again.pop() if again else next(chunks, None):
                worker = worker or _start(processes, stack, *scorer, device)
                with suppress(ConnectionError):  # if it is dead, recv will say so
                    worker.send(chunk)
                busy[worker] = worker, device, chunk

        for name in _devices(device, workers):
            give(name)
        while busy:
            for ready in wait(list(busy)):
                worker, name, chunk = busy.pop(ready)
                try:
                    answer: Part | str = worker.recv()
                except (EOFError, OSError):  # the latter if it died in the middle of its answer
                    deaths[chunk["number"]] += 1
                    if deaths[chunk["number"]] == _MAX_DEATHS:
                        raise ScoreError(_blame(chunk)) from None
                    again.append(chunk)
                    give(name)
                    continue
                if isinstance(answer, str):
                    raise ScoreError(answer)
                give(name, worker)  # before the caller takes its time
                yield answer


def _devices(device: Device, workers: int | None) -> list[str]:
    """The device of each process."""
    kind = Settings.model_construct(device=device).accelerator()
    gpus = nvidia_gpus() if kind == "cuda" else 0
    if kind == "cuda" and not gpus:
        raise ScoreError(NO_GPU)
    names = [f"cuda:{number}" for number in range(gpus)] or [kind]
    count = workers or min(cores(), _WORKERS_PER_GPU * gpus or cores())
    return list(itertools.islice(itertools.cycle(names), count))


def _blame(chunk: Chunk) -> str:
    names = chunk["names"].split(b"\0")
    first, last = (name.decode(errors="backslashreplace") for name in (names[0], names[-1]))
    return (
        f"{_MAX_DEATHS} processes died while they scored {first} to {last}: is there too little memory for so many "
        "--workers, or an image that crashes them?"
    )


def _start(processes: Any, stack: ExitStack, *arguments: Any) -> Connection:
    """The connection to a new process that ends with the stack: it takes chunks, and sends parts, or what is wrong."""
    ours, theirs = processes.Pipe()
    process = processes.Process(target=_serve, args=[theirs], daemon=True)
    try:
        process.start()
    except PROCESS_START_ERRORS as error:
        raise ScoreError(f"no process to score in can be started: {error}") from None
    theirs.close()
    stack.callback(process.join)
    stack.callback(process.kill)
    connection: Connection = stack.enter_context(ours)
    with suppress(ConnectionError):
        connection.send(arguments)
    return connection


def _serve(parent: Connection) -> None:
    from server.score.scorer import Scorer

    begin_worker()
    with parent, suppress(EOFError, ConnectionError, MemoryError):  # then our parent starts another, or says why
        try:
            score = Scorer(*parent.recv())
            while True:
                parent.send(score(parent.recv()))
        except (CheckpointError, RuntimeError, ScoreError) as error:  # RuntimeError: the network's, or GPU memory
            parent.send(str(error))


def score_on_ray(
    address: str, scorer: Arguments, device: Device, workers: int | None, chunks: Iterator[Chunk]
) -> Generator[Part]:
    """With Ray Data, which replaces actors that are lost. Raises CheckpointError or ScoreError."""
    try:
        import ray
        import ray.data
    except ModuleNotFoundError:
        raise ScoreError("Ray is not installed: pip install '.[ray]' in the folder of this repository") from None
    from server.score.scorer import Scorer

    build_classifier(*scorer[1:])  # errors in a checkpoint are clearer here than from an actor
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # else it logs its progress, and errors in full
    data: Any = ray.data
    data.DataContext.get_current().enable_progress_bars = False
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray raises plain ones too
        raise ScoreError(f"there is no Ray cluster at {address} that can be used: {error}") from None
    try:
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = resources.get("GPU", 0) if device in ("auto", "cuda") else 0
        if device == "cuda" and not gpus:
            raise ScoreError("--device cuda: the cluster has no GPU")
        actors = workers or math.ceil(_WORKERS_PER_GPU * gpus or resources.get("CPU", 1))
        while window := list(itertools.islice(chunks, _WINDOW)):
            dataset = data.from_items(window, override_num_blocks=len(window))
            parts = dataset.map(
                Scorer,
                fn_constructor_args=(*scorer, "cuda" if gpus else "cpu"),
                compute=data.ActorPoolStrategy(min_size=1, max_size=actors, initial_size=actors),
                num_cpus=1,
                num_gpus=min(1, gpus / actors),
            )
            yield from parts.iter_rows()
    except ray.exceptions.RayError as error:
        raise ScoreError(f"Ray could not score the images: {str(error).strip().splitlines()[-1]}") from None
    finally:
        ray.shutdown()
