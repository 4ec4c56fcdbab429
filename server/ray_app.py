"""The service as a Ray Serve application: Ingress, which is the HTTP process of each node, and Classifier, the workers.

$ cifar-serve --engine ray
$ serve run server.ray_app:app            # settings from CIFAR_…, or as arguments: workers=4

Ray's proxy on a node hands requests to the Ingress there, which sends its batches to a Classifier on any node. So a
node that is lost takes with it batches, which are sent again, and the requests on its own connections, but no others.
"""

import asyncio
import base64
import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.card import ModelCard
from models.pixels import Pixels
from server import logs
from server.settings import Settings

if TYPE_CHECKING:
    from server.wire import Probabilities

Checkpoint = dict[str, str]  # weights (base64) and card (JSON): Serve passes JSON to its replicas

_MOST_REPLICAS = 100  # when autoscaling; the cluster's own limits come first
_NO_LIMIT = 1_000_000  # of requests under way: ours are max_waiting_images and max_waiting_bytes
QUIET = {"log_level": "WARNING", "enable_access_log": False}  # of Serve itself; our own log says the rest


class Classifier:
    """A replica, which runs the network with the checkpoint that Serve passes to it."""

    def __init__(self, settings: Settings) -> None:
        logs.configure(settings.log_format, settings.log_level)
        self._folder = tempfile.TemporaryDirectory(prefix="cifar-")
        self._path = Path(self._folder.name) / settings.checkpoint_path().name
        self._settings = settings.model_copy(update={"checkpoint": self._path})
        self._model: Any = None

    async def reconfigure(self, checkpoint: Checkpoint) -> None:
        """Loads the checkpoint. Raises CheckpointError, upon which Serve replaces this replica."""
        await asyncio.to_thread(self._load, checkpoint)

    def _load(self, checkpoint: Checkpoint) -> None:
        from models.checkpoint import card_path
        from server.live_model import LiveModel

        self._path.write_bytes(base64.b64decode(checkpoint["weights"]))
        card_path(self._path).write_text(checkpoint["card"])
        if self._model:
            self._model.reload()
        else:
            device = "cuda" if self._settings.gpus_per_worker else "cpu"
            self._model = LiveModel(self._settings, self._path.with_name("last-good.pth"), device, threads=1)

    async def predict(self, pixels: Pixels) -> "tuple[Probabilities, ModelCard]":
        """uint8 [N, H, W, 3] → float32 [N, C] and the card of the model that made them. One batch at a time."""
        answer: tuple[Probabilities, ModelCard] = self._model.predict(pixels)
        return answer

    async def check_health(self) -> None:
        """Serve calls it in every replica, and replaces one that raises."""
        if self._model:
            self._model.check_device()

    async def card(self) -> ModelCard:
        """The card of the model that this replica serves."""
        card: ModelCard = self._model.card
        return card


class Ingress:
    """Our routes, decoders and batcher, as in an HTTP process of one machine."""

    def __init__(self, settings: Settings, classifier: DeploymentHandle[Any]) -> None:
        logs.configure(settings.log_format, settings.log_level)
        self._settings, self._classifier = settings, classifier

    def __serve_build_asgi_app__(self) -> ASGIApp:
        """The application; Serve calls it in the replica."""
        folder = Path(tempfile.gettempdir()) / f"cifar-metrics-{ray.get_runtime_context().get_node_id()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(folder)  # read when prometheus_client is imported
        from server.asgi import build_app
        from server.metrics import RECORDER, counting
        from server.ray_engine import RayEngine

        engine = RayEngine(self._classifier, self._settings.deadline_s)

        @contextlib.asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[None]:
            RECORDER.counts_reloads = serve.get_replica_context().rank.local_rank == 0
            informing = asyncio.create_task(engine.keep_informed())
            await engine.informed.wait()  # Serve sends no requests until then
            async with counting():
                yield
            informing.cancel()

        return _leave_request_id_to_proxy(build_app(self._settings, engine, lifespan))


def _leave_request_id_to_proxy(app: ASGIApp) -> ASGIApp:
    """Ray's proxy puts an X-Request-ID into every request, which we use, and every answer: ours would repeat it."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        async def send_on(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [header for header in message["headers"] if header[0] != b"x-request-id"]
            await send(message)

        await app(scope, receive, send_on)

    return call


def on_every_node(context: AutoscalingContext) -> tuple[int, dict[str, Any]]:
    """The autoscaling policy of Ingress, which Serve's controller calls: how many replicas there should be."""
    nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    assert context.config  # noqa: S101
    return nodes * context.config.min_replicas, {}


def application(settings: Settings, checkpoint: Checkpoint, version: str = "") -> serve.Application:
    """If it is deployed again under the same `version`, replicas load the new checkpoint; else Serve replaces them."""
    common: dict[str, Any] = {
        "max_ongoing_requests": _NO_LIMIT,
        "graceful_shutdown_timeout_s": settings.deadline_s,
        "graceful_shutdown_wait_loop_s": 0.1,
        "logging_config": QUIET,
    }
    # One batch per replica: if there are more on average, some wait, and another replica could run them.
    scaled = AutoscalingConfig(
        min_replicas=1, max_replicas=_MOST_REPLICAS, target_ongoing_requests=1, upscale_delay_s=10
    )
    classifier = serve.deployment(
        user_config=checkpoint,
        ray_actor_options={"num_cpus": 1, "num_gpus": settings.gpus_per_worker},
        **({"autoscaling_config": scaled} if settings.workers == "auto" else {"num_replicas": settings.workers}),
        **common,
    )(Classifier)
    on_a_node = 1 if settings.http_processes == "auto" else settings.http_processes
    ingress = serve.deployment(
        ray_actor_options={"num_cpus": 0},  # like Ray's proxies: it must run on nodes that have none to spare
        max_replicas_per_node=on_a_node,
        autoscaling_config=AutoscalingConfig(
            min_replicas=on_a_node,
            max_replicas=_NO_LIMIT,
            policy=AutoscalingPolicy(policy_function="server.ray_app:on_every_node"),  # type: ignore[no-untyped-call]
            upscale_delay_s=0,
            downscale_delay_s=0,
        ),
        **common,
    )(serve.ingress()(Ingress))
    workers = classifier.options(version=version, _internal=True).bind(settings)
    return ingress.options(version=version, _internal=True).bind(settings, workers)


def pack(path: Path, card: ModelCard) -> Checkpoint:
    """The checkpoint in `path`, which `card` must be of, for nodes without that file. Raises CheckpointError."""
    from models.checkpoint import CheckpointError, read

    weights, found = read(path)
    if found.sha256 != card.sha256:
        raise CheckpointError(f"{path} changed while it was read")
    return {"weights": base64.b64encode(weights).decode(), "card": card.model_dump_json()}


def app(arguments: dict[str, Any]) -> serve.Application:
    """For `serve run` and `serve deploy`; `arguments` are settings. Raises CheckpointError."""
    from models.checkpoint import load

    settings = Settings(**arguments)
    path = settings.checkpoint_path()
    return application(settings, pack(path, load(path).card))
