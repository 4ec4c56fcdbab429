"""`cifar-serve --engine ray`: deploys on a running cluster, follows the checkpoint, removes it at the end."""

import contextlib
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import ray
from ray import serve
from ray.exceptions import RayError

from models.card import ModelCard
from models.checkpoint import CheckpointError
from server.live_model import LiveModel
from server.ray_app import QUIET, application, pack
from server.settings import Settings

_APPLICATION = "cifar"
_LOOK_EVERY_S = 0.5

log = logging.getLogger(__name__)


def serve_on_ray(settings: Settings) -> int:
    """Runs until Ctrl-C or SIGTERM; requests in flight are answered. Returns the exit code. Ray goes on running."""
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    stop = signal.getsignal(signal.SIGTERM)
    try:
        _check_reachable(os.environ.get("RAY_ADDRESS", ""))
        ray.init("auto", logging_level=logging.WARNING)
    except (OSError, RayError) as error:
        print(
            f"cifar-serve: there is no Ray cluster to join ({error}): start one with ray start --head, or name one in "
            "RAY_ADDRESS, with RAY_AUTH_MODE=token if it needs a token",
            file=sys.stderr,
        )
        return 1
    signal.signal(signal.SIGTERM, stop)  # Ray has set its own handler, which ends the process at once
    try:
        with tempfile.TemporaryDirectory(prefix="cifar-") as folder:
            # Here the model is only checked: what cannot be served does not reach the cluster.
            model = LiveModel(settings, Path(folder) / "last-good.pth", "cpu", threads=1)
            if settings.reload:
                threading.Thread(target=model.follow_checkpoint, daemon=True).start()
            with _proxies(settings):
                _keep_deployed(settings, model)
    except KeyboardInterrupt:
        return 0
    except (CheckpointError, RuntimeError, TimeoutError, RayError) as error:
        print(f"cifar-serve: {error}", file=sys.stderr)
        return 1
    finally:
        ray.shutdown()


def _check_reachable(address: str) -> None:
    """Raises OSError if nobody listens at `address`, which Ray itself says only after many minutes."""
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host, int(port)), timeout=5).close()


@contextlib.contextmanager
def _proxies(settings: Settings) -> Iterator[None]:
    """Starts Serve, with a proxy on every node. If it runs already, it keeps its options, and warns if ours differ.

    At the end shuts Serve down, which frees the port, unless there is somebody's application.
    """
    http = {
        "host": settings.host,
        "port": settings.port,
        "ssl_certfile": settings.ssl_certfile and str(settings.ssl_certfile),
        "ssl_keyfile": settings.ssl_keyfile and str(settings.ssl_keyfile),
    }
    try:
        serve.start(proxy_location="EveryNode", http_options=http, logging_config=QUIET)
        yield
    finally:
        with contextlib.suppress(RayError):  # the cluster may have ended before us
            if not serve.status().applications:
                serve.shutdown()  # type: ignore[no-untyped-call]


def _keep_deployed(settings: Settings, model: LiveModel) -> NoReturn:
    """Deploys the model now and whenever it changes. At the end removes the application if it has deployed one."""
    version, deployed = uuid.uuid4().hex, None
    try:
        while True:
            card = model.card
            if card != deployed:
                try:
                    checkpoint = pack(settings.checkpoint_path(), card)
                except CheckpointError as error:  # half a second later the file is whole, or the model another
                    log.warning("not deployed yet: %s", error)
                else:
                    first, deployed = deployed is None, card
                    _deploy(settings, application(settings, checkpoint, version), card, first)
            time.sleep(_LOOK_EVERY_S)
    finally:
        if deployed:
            with contextlib.suppress(RayError):  # the cluster may have ended before us
                serve.delete(_APPLICATION)


def _deploy(settings: Settings, app: serve.Application, card: ModelCard, first: bool) -> None:
    try:
        serve.run(app, name=_APPLICATION)
    except (RuntimeError, TimeoutError, RayError) as error:  # also if a proxy or the controller was slow
        if first:
            raise
        log.error("%s is not served by all replicas: %s", card.version, error)
        return
    scheme = "https" if settings.ssl_certfile else "http"
    nodes = sum(node["Alive"] for node in ray.nodes())  # type: ignore[no-untyped-call]
    log.info(
        "serving %s (%s) at %s://%s:%d on %d node(s) of the Ray cluster %s",
        settings.model_name, card.version, scheme, settings.host, settings.port, nodes,
        ray.get_runtime_context().gcs_address,
    )  # fmt: skip
