"""The servers that are compared: ours, and what its users might take instead, each tuned by hand on two cores."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.protocols import BENTOML, LITSERVE, MLSERVER, TORCHSERVE, TRITON
from benchmarks.servers import Server

OURS = "cifar-serve"

# torch's threads: one in each process is best, except where a single process runs a network that takes all the time.
_ONE_THREAD, _TWO_THREADS = {"OMP_NUM_THREADS": "1"}, {"OMP_NUM_THREADS": "2"}


def all_servers() -> list[Server]:
    """All of them, ours first."""
    ours = ["{python}", "-m", "server", "--port", "{port}", "--checkpoint", "{checkpoint}"]
    two_workers = {"CIFAR_WORKERS": "2"}
    return [
        Server(OURS, ours, heavy=two_workers),
        Server(f"{OURS} --forward onnxruntime", [*ours, "--forward", "onnxruntime"], heavy=two_workers),
        _module("FastAPI, batching in the process", "fastapi_batching", distribution="fastapi"),
        _module(
            "LitServe, tuned",
            "litserve_tuned",
            written=["litserve_stock.py", "litserve_tuned.py"],
            distribution="litserve",
            protocol=LITSERVE,
            heavy=_TWO_THREADS,
        ),
        _torchserve(),
        _module(
            "Triton (PyTriton)",
            "pytriton_batching",
            ["{ports[0]}", "{ports[1]}"],
            {"LD_LIBRARY_PATH": "{libraries}"},  # otherwise its Python stub finds the system's libpython
            distribution="nvidia-pytriton",
            packages=["nvidia-pytriton==0.7.0"],
            protocol=TRITON,
            worker="pytriton_batching",
            heavy=_TWO_THREADS,
        ),
        _module(
            "Ray Serve",
            "ray_serve_start",
            variables={
                "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
                "RAY_SERVE_ENABLE_HA_PROXY": "1",
                "RAY_SERVE_HAPROXY_NBTHREAD": "1",
                "RAY_SERVE_HAPROXY_METRICS_PORT": "{ports[0]}",
                "RAY_SERVE_HAPROXY_STATS_PORT": "{ports[1]}",
                "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": "{folder}/haproxy.cfg",
                "RAY_SERVE_HAPROXY_SOCKET_PATH": "{folder}/admin.sock",
            },
            written=["ray_serve.py", "ray_serve_start.py"],
            distribution="ray",
            packages=["ray[serve,haproxy]==2.60.0"],
            worker="ray::ServeReplica",
        ),
        Server(
            "BentoML",
            ["{bin}/bentoml", "serve", "benchmarks.peers.bentoml_service:Cifar", "--port", "{port}"],
            protocol=BENTOML,
            written=["bentoml_service.py"],
            distribution="bentoml",
            packages=["bentoml==1.4.39"],
            worker="_bentoml_impl.worker",
            variables={**_ONE_THREAD, "BENTOML_HOME": "{folder}", "BENTOML_DO_NOT_TRACK": "True"},
        ),
        Server(
            "MLServer",
            ["{bin}/mlserver", "start", "{peers}/mlserver"],
            protocol=MLSERVER,
            written=["mlserver/runtime.py", "mlserver/model-settings.json", "mlserver/settings.json"],
            distribution="mlserver",
            packages=["mlserver==1.7.1", "uvloop<0.22"],  # with newer ones its worker processes do not start
            variables={
                **_ONE_THREAD,
                "MLSERVER_HTTP_PORT": "{port}",
                "MLSERVER_GRPC_PORT": "{ports[0]}",
                "MLSERVER_METRICS_PORT": "{ports[1]}",
            },
            heavy=_TWO_THREADS,
        ),
        _module("FastAPI, forward in the request", "fastapi_in_request", distribution="fastapi"),
        _module("LitServe, its README's way", "litserve_stock", distribution="litserve", protocol=LITSERVE),
    ]


def _module(
    name: str,
    module: str,
    flags: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    written: Sequence[str] = (),
    **more: Any,
) -> Server:
    """A server that is a module in peers/."""
    command = ["{python}", "-W", "ignore", "-m", f"benchmarks.peers.{module}", "{port}", *flags]
    written = written or [f"{module}.py"]
    return Server(name, command, written=written, variables={**_ONE_THREAD, **(variables or {})}, **more)


def _torchserve() -> Server:
    """Needs Java 11 or 17 (Debian: apt-get install default-jre-headless)."""
    archive = "--model-name cifar --version 1.0 --handler {peers}/torchserve/handler.py --export-path {folder}"
    model = "--serialized-file {checkpoint} --extra-files {card} --config-file {peers}/torchserve/model-config.yaml"
    serve = "--start --foreground --model-store {folder} --models cifar=cifar.mar --disable-token-auth"
    return Server(
        "TorchServe",
        ["{bin}/torchserve", *serve.split(), "--ts-config", "{peers}/torchserve/config.properties"],
        protocol=TORCHSERVE,
        written=["torchserve/handler.py", "torchserve/model-config.yaml", "torchserve/config.properties"],
        distribution="torchserve",
        packages=[
            "torchserve==0.12.0",
            "torch-model-archiver==0.12.0",
            "captum",
            "packaging",
            "pyyaml",
            "setuptools<81",
        ],
        worker="model_service_worker",
        before=["{bin}/torch-model-archiver", *archive.split(), *model.split()],
        variables={
            **_ONE_THREAD,
            "TS_INFERENCE_ADDRESS": "http://127.0.0.1:{port}",
            "TS_MANAGEMENT_ADDRESS": "http://127.0.0.1:{ports[0]}",
            "TS_METRICS_ADDRESS": "http://127.0.0.1:{ports[1]}",
            "TS_GRPC_INFERENCE_PORT": "{ports[2]}",
            "TS_GRPC_MANAGEMENT_PORT": "{ports[3]}",
            "LOG_LOCATION": "{folder}",
            "METRICS_LOCATION": "{folder}",
        },
    )
