"""Several processes that train one network, as `torchrun --nproc-per-node 2 -m training ...` starts them.

Each holds the whole network and takes its share of every batch; DistributedDataParallel averages their gradients, so
that they make the updates that one process makes of the whole batch; normalisations too are over all of it.

Where torchrun did not start us, all of this does nothing.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import lru_cache
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

from models.machine import cores
from training.errors import TrainingError

Value = TypeVar("Value")

# How long a process waits for one that hangs or lost its network; one that dies is noticed at once. Healthy processes
# wait for each other too: for a minute while torch.compile works.
_PATIENCE = timedelta(minutes=5)
_READING = timedelta(hours=2)  # for those that decode the images of their host: a million photographs take half an hour


@contextmanager
def process_group() -> Iterator[None]:
    """Inside it, the processes that torchrun started are one process group. Raises TrainingError if one is lost."""
    if not dist.is_torchelastic_launched():
        torch.set_num_threads(min(torch.get_num_threads(), cores()))  # torch knows no container's quota
        yield
        return
    torch.set_num_threads(max(1, cores() // local_world_size()))  # torchrun asks for 1
    try:
        store, rank, count = next(rendezvous("env://", timeout=_PATIENCE))
        store = dist.PrefixStore(_meet(store, rank, count), store)  # type: ignore[attr-defined]
        # By itself torch takes only that of the GPUs where there are any, and much of what we share lies on the CPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        dist.init_process_group(backend, store=store, rank=rank, world_size=count, timeout=_PATIENCE)
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        reason = str(error).splitlines()[0].split("] ", 1)[-1].split(". ")[0]  # less the source file, and advice
        raise TrainingError(
            f"another process of this run was lost or does not answer ({reason}): see what it said, or what torchrun "
            "says of it; --resume goes on from the last epoch that was saved"
        ) from None


def _meet(store: Any, rank: int, count: int) -> str:
    """A name for the group that no other has had. Raises RuntimeError or TrainingError where not all come.

    torchrun's store lives on when it starts us again, with the addresses of those that were there before; and its count
    of restarts is another on each host. So the first process makes a name up, and who reads one asks whether its maker
    is still there, until one answers.
    """
    if rank == 0:
        name = uuid4().hex
        store.set("group", name)
        for other in range(1, count):
            asker = store.get(f"{name}/{other}").decode()
            store.set(f"{name}/{asker}", "")
        return name
    asker, give_up_at = uuid4().hex, time.monotonic() + _PATIENCE.total_seconds()
    while time.monotonic() < give_up_at:
        name = str(store.get("group").decode())
        store.set(f"{name}/{rank}", asker)
        if store.check([f"{name}/{asker}"]):
            return name
        time.sleep(0.05)
    raise TrainingError("the first process of this run does not answer: see what it said, or what torchrun says of it")


def leave() -> bool:
    """Leaves the process group. Returns whether this is the first process, which alone does what is left to do."""
    first = rank() == 0
    if dist.is_initialized():
        dist.destroy_process_group()
    return first


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def say(line: str) -> None:
    """Prints the line, in the first process only."""
    if rank() == 0:
        print(line, flush=True)  # in a pipe or a log file too, a line appears when it is said


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def local_world_size() -> int:
    """How many of the processes are on this host."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def own_device(name: str) -> str:
    """The device of this process for `--device name`: under torchrun each gets its own GPU. Raises TrainingError."""
    if not dist.is_torchelastic_launched() or name == "cpu":
        return name
    if name not in ("auto", "cuda"):
        raise TrainingError(f"torchrun starts a process for each device: --device is auto, cpu or cuda, not {name}")
    gpus, wanted = torch.cuda.device_count(), local_world_size()
    if name == "auto" and not gpus:
        return "cpu"
    if gpus < wanted:
        raise TrainingError(f"{wanted} processes on this host want a GPU each, and it has {gpus}: try --device cpu")
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    return f"cuda:{os.environ['LOCAL_RANK']}"


@contextmanager
def one_of_a_host_first() -> Iterator[None]:
    """One process of each host goes through the block before the others, which find what it left on disk."""
    if world_size() == 1:
        yield
        return
    patient: Any = dist.new_group(timeout=_READING, backend="gloo")
    follows = os.environ["LOCAL_RANK"] != "0"
    if follows:
        dist.barrier(patient)
    yield
    if not follows:
        dist.barrier(patient)
    dist.barrier(patient)  # where nothing could be left on disk, all of them take as long as the first


def broadcast_from_first(value: Value) -> Value:
    """The first process's `value`, in every process; the others' is ignored."""
    box = [value]
    if world_size() > 1:
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
    return box[0]


def refuse_differences(values: dict[str, Any]) -> None:
    """Raises TrainingError where the first process has other values."""
    for name, value in broadcast_from_first(values).items():
        if values[name] != value:
            raise TrainingError(
                f"the {name} of this process is {values[name]!r}, that of the first one {value!r}: "
                "give every host the same command and the same data"
            )


def refuse_empty_shares(batch: int) -> None:
    """Raises TrainingError where so many images are too few for each process to have one."""
    if batch < world_size():
        raise TrainingError(
            f"each of the {world_size()} processes takes its share of a batch, which has {batch} images here: start "
            "fewer processes, or choose a larger --batch-size"
        )


def all_reduce_sum(values: torch.Tensor) -> torch.Tensor:
    """Sums `values` over all processes, element by element, in place. Returns it."""
    if world_size() > 1:
        dist.all_reduce(values)
    return values


def all_reduce_max(number: int) -> int:
    """The largest `number` of all processes."""
    if world_size() == 1:
        return number
    box = torch.tensor(number)
    dist.all_reduce(box, dist.ReduceOp.MAX)
    return int(box)


def broadcast_buffers(net: nn.Module) -> None:
    """Copies what normalisations have counted, which DistributedDataParallel copies only when it trains."""
    if world_size() > 1:
        for buffer in net.buffers():
            dist.broadcast(buffer, 0)


def data_parallel(net: nn.Module, device: torch.device) -> nn.Module:
    """`net`, or what averages its gradients over all processes whenever it is trained; its weights are the same."""
    if world_size() == 1:
        return net
    return nn.parallel.DistributedDataParallel(net, [device.index] if device.type == "cuda" else None)


class Share(NamedTuple):
    """One process's part of some batches of images."""

    positions: torch.Tensor  # int64 [k]: places of its images among all of these
    sizes: list[int]  # how many images it has of each batch
    weights: list[float]  # factor on its mean loss of each batch: then the mean over processes is the batch's mean loss


@lru_cache(maxsize=4)
def share(images: int, batch_size: int, rank: int, world_size: int) -> Share:
    """What process `rank` of `world_size` takes of so many images in batches: of each a slice, as even as can be."""
    batches = torch.split(torch.arange(images), batch_size)
    parts = [batch.tensor_split(world_size)[rank] for batch in batches]
    weights = [len(part) * world_size / len(batch) for part, batch in zip(parts, batches, strict=True)]
    return Share(torch.cat(parts), [len(part) for part in parts], weights)
