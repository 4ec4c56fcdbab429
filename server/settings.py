"""Every setting of the service: each field makes an environment variable, a command-line flag and its help.

`--max-batch-size 128` and `CIFAR_MAX_BATCH_SIZE=128` mean the same; the flag wins.
"""

import os
import shutil
from pathlib import Path
from typing import Literal

from pydantic import DirectoryPath, Field, PositiveInt, SecretStr
from pydantic_settings import BaseSettings, CliSuppress, SettingsConfigDict

from models.card import SHIPPED, STRONG, find_checkpoint
from models.machine import cores
from server.logs import Format, Level

NO_GPU = (
    "--device cuda: this machine has no NVIDIA GPU, or no driver for it, or CUDA_VISIBLE_DEVICES hides it: "
    "choose another --device"
)


class Settings(BaseSettings):
    """Serve a checkpoint over HTTP: POST /predict takes an image and answers with its class."""

    model_config = SettingsConfigDict(
        env_prefix="CIFAR_",
        cli_prog_name="cifar-serve",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        frozen=True,
        cli_exit_on_error=False,  # read_settings exits, with a clearer message
        env_ignore_empty=True,
    )

    checkpoint: Path = Field(
        Path("cifar_net.pth"),
        description=f"a file, or one that ships: {' or '.join(SHIPPED)}; without cifar_net.pth, {SHIPPED[0]}",
    )
    host: Literal["127.0.0.1", "0.0.0.0", "::"] = Field("127.0.0.1", description="address to listen on")  # noqa: S104
    port: int = Field(8000, ge=1024, le=65535, description="port to listen on, from 1024")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="device that the network runs on")
    forward: Literal["eager", "onnxruntime"] = Field(
        "eager", description="torch, or ONNX Runtime on the CPU, which is faster: extra 'onnx'"
    )
    reload: bool = Field(True, description="serve a changed checkpoint without a restart")
    samples: DirectoryPath | None = Field(None, description="folder of pictures that the page offers to try")

    engine: Literal["litserve", "ray"] = Field("litserve", description="on this machine, or a Ray cluster: extra 'ray'")
    workers: PositiveInt | Literal["auto"] = Field("auto", description="worker processes per device; on Ray, in total")
    http_processes: PositiveInt | Literal["auto"] = Field(
        "auto", description="processes that answer HTTP; on Ray, per node"
    )
    gpus_per_worker: float = Field(0, ge=0, description="on Ray: GPUs per worker, or a fraction of one, like 0.25")
    max_batch_size: int = Field(64, ge=1, description="most images that the network takes at once")
    max_waiting_images: int = Field(4096, ge=1, description="images that may wait in a process before it answers 429")
    max_waiting_bytes: int = Field(
        2**29, ge=1, description="bytes of request bodies in a process before it answers 429"
    )
    deadline_s: float = Field(
        30.0, gt=0, le=86_400, description="seconds until a request gets a 504, or a 408 if its body has not arrived"
    )

    max_body_bytes: int = Field(25 * 2**20, ge=1, description="largest request body")
    max_image_pixels: int = Field(64_000_000, ge=1, le=89_000_000, description="largest picture, width x height")
    max_images: int = Field(1024, ge=1, description="most images in a request")

    # A flag would show the keys to everyone who can list processes.
    api_keys: CliSuppress[SecretStr | None] = Field(None, description="API keys that clients may use, comma-separated")
    api_keys_file: Path | None = Field(
        None, description="file with an API key on each line, re-read when it changes; adds to CIFAR_API_KEYS"
    )
    ssl_certfile: Path | None = Field(None, description="TLS certificate chain, PEM")
    ssl_keyfile: Path | None = Field(None, description="the certificate's private key, PEM, unencrypted")
    cors_origins: str = Field("", description="web origins whose pages may call the API, comma-separated, or *")

    log_format: Format = Field("auto", description="auto: plain on a terminal, else JSON")
    log_level: Level = Field("info", description="lowest level that is logged")
    access_log: bool = Field(False, description="log every request, not only failed ones")

    def checkpoint_path(self) -> Path:
        """The absolute path of the checkpoint to serve: `strong` if none is set and there is none at the default."""
        asked_for = "checkpoint" in self.model_fields_set or _is_there(self.checkpoint)
        return find_checkpoint(self.checkpoint) if asked_for else STRONG

    @property
    def model_name(self) -> str:
        """The model's name in answers: the checkpoint's file name without its suffix."""
        return self.checkpoint.stem

    def worker_count(self) -> int:
        """Processes per device that run the network. `auto`: half of the cores on the CPU, one on an accelerator."""
        if self.workers != "auto":
            return self.workers
        return max(1, cores() // 2) if self.accelerator() == "cpu" else 1

    def http_process_count(self) -> int:
        """Processes that answer HTTP and decode. `auto`: the cores less one device's workers, at least one."""
        return max(1, cores() - self.worker_count()) if self.http_processes == "auto" else self.http_processes

    def accelerator(self) -> Literal["cpu", "cuda", "mps"]:
        """`cpu`, `cuda` or `mps`, found without importing torch, which only the workers do."""
        if self.forward == "onnxruntime":
            return "cpu"
        if self.device != "auto":
            return self.device
        if nvidia_gpus() > 0:
            return "cuda"
        return "mps" if os.uname().sysname == "Darwin" and os.uname().machine == "arm64" else "cpu"


def _is_there(path: Path) -> bool:
    """True also for a file that may not be looked at: reading it will say why not."""
    try:
        path.stat()
    except OSError as error:
        return not isinstance(error, FileNotFoundError | NotADirectoryError)
    return True


def nvidia_gpus() -> int:
    """How many GPUs torch would find, judging by what the driver lists and CUDA_VISIBLE_DEVICES.

    A worker whose torch cannot use them falls back to the CPU.
    """
    from litserve.connector import check_cuda_with_nvidia_smi

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not shutil.which("nvidia-smi") or visible in ("", "-1"):
        return 0
    if visible and visible.startswith(("GPU-", "MIG-")):  # UUIDs, which LitServe counts as none
        return len(visible.split(","))
    return check_cuda_with_nvidia_smi()
