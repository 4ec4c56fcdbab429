"""What a Service and a rolling update do, without a cluster: servers in network namespaces behind HAProxy.

HAProxy only forwards bytes, as a Service does: a kept connection stays with its pod, and nothing is tried again. It
listens on a Unix socket, so that no address of this machine is touched.
"""

import contextlib
import csv
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.running import COMMANDS, wait_until

PLACES = ("a", "b", "c")  # for two pods, and one more during a rolling update

CONFIG = """
global
    stats socket {folder}/admin level admin
defaults
    mode tcp
    retries 0
    timeout connect 5s
    timeout client 60s
    timeout server 60s
listen service
    bind unix@{folder}/service
    balance roundrobin
    option httpchk GET /readyz
    default-server check inter 500ms fall 1 rise 1
"""


class Cluster:
    """Pods by place; each place is a network namespace. `service` is the Unix socket that leads to them.

    A place is new to the load balancer in the state `drain`: it is probed, and gets no connections.
    """

    def __init__(self, folder: Path) -> None:
        self.service = folder / "service"
        self._folder = folder
        self._names = {place: f"cifar-{os.getpid()}-{place}" for place in (*PLACES, "node")}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator["Cluster"]:
        """Skips the test if this machine does not allow network namespaces."""
        try:
            self._lay_cables()
            servers = "".join(f"    server {place} 10.78.{n}.2:8000\n" for n, place in enumerate(PLACES))
            (self._folder / "config").write_text(CONFIG.format(folder=self._folder) + servers)
            self._start("node", "haproxy", "-db", "-f", str(self._folder / "config"))
            wait_until(self.service.exists)
            for place in PLACES:
                self._tell(f"set server service/{place} state drain")
            yield self
        finally:
            for process in self._processes.values():
                process.terminate()
            for process in self._processes.values():
                process.wait(timeout=40)
            for name in self._names.values():
                subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def _lay_cables(self) -> None:
        node = self._names["node"]
        try:
            for name in self._names.values():
                ip("netns", "add", name)
            for number, place in enumerate(PLACES):
                pod, cable = self._names[place], f"to-{place}"
                ip("link", "add", cable, "netns", node, "type", "veth", "peer", "name", "eth0", "netns", pod)
                ip("-n", node, "address", "add", f"10.78.{number}.1/24", "dev", cable)
                ip("-n", pod, "address", "add", f"10.78.{number}.2/24", "dev", "eth0")
                ip("-n", node, "link", "set", cable, "up")
                for device in ("lo", "eth0"):
                    ip("-n", pod, "link", "set", device, "up")
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces here: {error}")

    def _start(self, place: str, *command: str) -> None:
        with (self._folder / f"{place}.log").open("ab") as log:
            inside = ["ip", "netns", "exec", self._names[place], *command]
            self._processes[place] = subprocess.Popen(inside, cwd=self._folder, stdout=log, stderr=log)

    def _tell(self, command: str) -> str:
        """Sends HAProxy a command; returns its answer."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(self._folder / "admin"))
            connection.sendall(f"{command}\n".encode())
            return connection.makefile().read()

    def _probe(self, place: str) -> str:
        """What the last probe found: L7OK, or why not."""
        rows = csv.DictReader(self._tell("show stat").removeprefix("# ").splitlines())
        return next(row["check_status"].removeprefix("* ") for row in rows if row["svname"] == place)

    def start_pod(self, place: str, checkpoint: Path) -> None:
        wait_until(lambda: self._probe(place) not in ("L7OK", "INI"))  # the result for the pod before must not count
        flags = ["--host", "0.0.0.0", "--workers", "1", "--http-processes", "1", "--checkpoint", str(checkpoint)]
        self._start(place, str(COMMANDS / "cifar-serve"), *flags)

    def wait_until_ready(self, place: str) -> None:
        """Waits until the pod is ready, and adds it to the Service."""
        wait_until(lambda: self._probe(place) == "L7OK")
        self._tell(f"set server service/{place} state ready")

    def take_out(self, place: str) -> None:
        """Removes the pod from the Service: it gets no new connections, keeps those that it has, and is not told."""
        self._tell(f"set server service/{place} state drain")

    def stop_pod(self, place: str) -> int:
        """Sends SIGTERM, as Kubernetes does after preStop; returns the exit code."""
        self._processes[place].send_signal(signal.SIGTERM)
        return self._processes[place].wait(timeout=40)

    def kill_pod(self, place: str, is_felt: Callable[[], bool]) -> None:
        """Kills the pod without warning. Only once `is_felt`, the next probe finds it dead, and it is taken out."""
        self._tell(f"disable health service/{place}")
        self._processes[place].kill()
        wait_until(is_felt)
        self._tell(f"enable health service/{place}")
        wait_until(lambda: self._probe(place) != "L7OK")


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], capture_output=True, check=True)
