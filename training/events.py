"""What TensorBoard shows of a run, in an event file that can be followed while it trains.

Written by TensorBoard's own writer, yet without torch's SummaryWriter: that one writes from a thread of its own, which
ends with a traceback where the disk is full, and traces a graph by torch.jit, which is deprecated and takes seconds.
"""

import time
from pathlib import Path
from typing import Any

import torch
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.graph_pb2 import GraphDef
from tensorboard.compat.proto.node_def_pb2 import NodeDef
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import fx, nn
from torch.utils.tensorboard.summary import image

from training.history import Epoch
from training.options import EVENTS_PREFIX


def event_files(folder: Path) -> list[Path]:
    return list(folder.glob(f"{EVENTS_PREFIX}*"))


class Events:
    """A new event file in `folder`. Every method raises OSError where it cannot be written."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / f"{EVENTS_PREFIX}{time.time_ns()}"  # TensorBoard follows the latest name
        self._add(0, file_version="brain.Event:2")

    def add_epoch(self, epoch: Epoch) -> None:
        scalars = {"loss": epoch.loss, "learning_rate": epoch.learning_rate, "validation_accuracy": epoch.accuracy}
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars.items() if value is not None]
        self._add(epoch.number, summary=Summary(value=values))

    def add_pictures(self, tag: str, pixels: torch.Tensor) -> None:
        """uint8 [n, H, W, 3], as one grid."""
        self._add(0, summary=image(tag, pixels, dataformats="NHWC"))  # type: ignore[no-untyped-call]

    def add_graph(self, net: nn.Module) -> None:
        """Raises what torch.fx raises where it cannot trace the network."""
        nodes: dict[fx.Node, NodeDef] = {}
        for node in fx.Tracer().trace(net).nodes:
            if node.op == "call_module":
                scope, _, _ = str(node.target).rpartition(".")
                operation = type(net.get_submodule(str(node.target))).__name__
            else:
                scope = next(reversed(node.meta.get("nn_module_stack", {})), "")  # the innermost module around it
                operation = getattr(node.target, "__name__", str(node.target))
            name = "/".join([*scope.split("."), node.name]) if scope else node.name
            nodes[node] = NodeDef(
                name=name, op=operation, input=[nodes[source].name for source in node.all_input_nodes]
            )
        self._add(0, graph_def=GraphDef(node=nodes.values()).SerializeToString())

    def _add(self, step: int, **content: Any) -> None:
        event = Event(wall_time=time.time(), step=step, **content)
        with self._path.open("ab", buffering=0) as file:
            RecordWriter(file).write(event.SerializeToString())
