"""What the service would do on machines that are not here: a simulation of its processes, checked against the real one.

    make bench ARGS=simulation

What a request and a batch cost each process is measured on the running service with 1 and with 64 connections, as the
CPU time that the system accounts to it (wrk makes the load: apt-get install wrk). Knowing that alone, the simulation
says what other connections give, beside what was measured; and then what other machines would. docs/scaling.md has it.
"""

import argparse
import os
import statistics
import sys
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import simpy

from benchmarks.costs import CONNECTIONS, IMAGES, LARGE, MANY, Cost, Performance, make_loads, measure, solve
from benchmarks.protocols import RAW
from benchmarks.wrk import no_wrk

_ALONE, _BUSY = CONNECTIONS[0], CONNECTIONS[2]  # the loads that the costs are computed from
_MAX_BATCH_SIZE = 64
_REQUESTS = 20_000  # to simulate; the first fifth does not count: at first all connections ask at once

Events = Generator[simpy.Event, Any, None]


@dataclass(frozen=True)
class Machine:
    """Where `costs` have no client, the load comes from another machine. With `gpu` the workers need no core.

    With `gathers` a worker makes one batch of all that wait, which ours do not do.
    """

    name: str
    cores: int
    http_processes: int
    workers: int
    costs: dict[str, Cost]
    gpu: bool = False
    gathers: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description="Measured, and simulated.")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each load, for the median (%(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="seconds of each load (default: %(default)s)")
    options = parser.parse_args(argv)
    if no_wrk():
        return 1
    loads = make_loads()
    sizes = {load.title: len(RAW.encode([load.image] * load.images).content) for load in loads}
    measured = measure(loads, options.rounds, options.seconds)
    alone, busy = measured[str(_ALONE)], measured[str(_BUSY)]
    costs = {process: solve(process, alone, busy) for process in busy.cpu_us}
    print_costs(costs)
    print_a_million(measured, sizes)
    print_comparison(measured, Machine("this one", os.cpu_count() or 1, 1, 1, costs))
    print_other_machines(costs, busy.cpu_us)
    return 0


class Simulation:
    """Processes that wait for a core, take all that is there, work on it, and give the core back. Times in µs."""

    def __init__(self, machine: Machine, connections: int, requests: int = _REQUESTS) -> None:
        self.machine, self.requests = machine, requests
        self.env = simpy.Environment()
        self.cores = simpy.Resource(self.env, machine.cores)
        self.gpus = simpy.Resource(self.env, machine.workers) if machine.gpu else self.cores
        self.client = simpy.Store(self.env)
        self.http = [simpy.Store(self.env) for _ in range(machine.http_processes)]
        self.workers = [simpy.Store(self.env) for _ in range(machine.workers)]
        self.unanswered = [0] * machine.workers  # how many batches each worker has
        self.latencies: list[float] = []
        self.batches: list[int] = []
        self.started_at = 0.0
        self.done = self.env.event()
        for number in range(connections):
            self.ask(number)

    def run(self) -> Performance:
        for number in range(self.machine.http_processes):
            self.env.process(self.serve(number))
        for number in range(self.machine.workers):
            self.env.process(self.classify(number))
        self.env.process(self.receive())
        self.env.run(until=self.done)
        percentiles = statistics.quantiles(self.latencies, n=100)
        rate = len(self.latencies) / (self.env.now - self.started_at) * 1e6
        return Performance(rate, percentiles[49] / 1e3, percentiles[98] / 1e3, statistics.fmean(self.batches))

    def ask(self, connection: int) -> None:
        self.http[connection % len(self.http)].put((connection, self.env.now))

    def receive(self) -> Events:
        """The client: each of its connections asks again as soon as it is answered."""
        cost = self.machine.costs.get("client")
        where, cost = (self.cores, cost) if cost else (simpy.Resource(self.env), Cost(0, 0))
        answers = 0
        while True:
            first = yield self.client.get()
            with where.request() as turn:
                yield turn
                for connection, asked_at in all_of(first, self.client):
                    yield self.env.timeout(cost.request)
                    self.latencies.append(self.env.now - asked_at)
                    answers += 1
                    if answers == self.requests // 5:
                        self.latencies, self.batches, self.started_at = [], [], self.env.now
                    if answers == self.requests:
                        self.done.succeed()
                    self.ask(connection)
                yield self.env.timeout(cost.batch)

    def serve(self, number: int) -> Events:
        """An HTTP process with its batcher: see server/batcher.py."""
        cost, waiting, running = self.machine.costs["HTTP process"], deque[tuple[int, float]](), 0
        while True:
            first = yield self.http[number].get()
            with self.cores.request() as turn:
                yield turn
                for item in all_of(first, self.http[number]):
                    if isinstance(item, list):  # a batch, with the worker's answers
                        running -= 1
                        for request in item:
                            self.client.put(request)
                    else:
                        yield self.env.timeout(cost.request)
                        waiting.append(item)
                while waiting and running < self.machine.workers + 1:
                    batch = [waiting.popleft() for _ in range(min(len(waiting), _MAX_BATCH_SIZE))]
                    running += 1
                    yield self.env.timeout(cost.batch)
                    worker = min(range(len(self.workers)), key=self.unanswered.__getitem__)
                    self.unanswered[worker] += 1
                    self.workers[worker].put((number, batch))

    def classify(self, number: int) -> Events:
        cost, inbox = self.machine.costs["worker"], self.workers[number]
        while True:
            first = yield inbox.get()
            with self.gpus.request() as turn:
                yield turn
                taken = all_of(first, inbox) if self.machine.gathers else [first]
                images = sum(len(batch) for _, batch in taken)
                yield self.env.timeout(cost.batch + images * cost.request)
            self.batches.append(images)
            self.unanswered[number] -= len(taken)
            for sender, batch in taken:
                self.http[sender].put(batch)


def all_of(first: Any, inbox: simpy.Store) -> list[Any]:
    taken = [first, *inbox.items]
    inbox.items.clear()
    return taken


def print_costs(costs: dict[str, Cost]) -> None:
    print("**1. What is spent**, in µs of one core.\n")
    print("| | for each request | and for each batch |\n|---|---:|---:|")
    for process, cost in costs.items():
        print(f"| {process} | {cost.request:.1f} | {cost.batch:.0f} |")


def print_a_million(measured: dict[str, Performance], sizes: dict[str, int]) -> None:
    """A microsecond of CPU time for each image is one core at a million images a second."""
    print("\n**2. A million images a second**, in requests, in cores and on the wire.\n")
    print("| | requests/s | cores: HTTP, decoding | cores: the network | Gbit/s in |\n|---|", end="")
    print("---:|" * 4)
    for name, title, images in (("one JPEG of 32x32", str(_BUSY), 1), (MANY, MANY, IMAGES), (LARGE, LARGE, 1)):
        http, worker = (measured[title].cpu_us[process] / images for process in ("HTTP process", "worker"))
        gigabits = sizes[title] / images * 8 * 1e6 / 1e9
        print(f"| {name} | {1e6 / images:,.0f} | {http:,.0f} | {worker:,.0f} | {gigabits:,.1f} |")


def print_comparison(measured: dict[str, Performance], here: Machine) -> None:
    print("\n**3. Measured here, and simulated** from table 1 alone.\n")
    print("| connections | requests/s | simulated | off by | p50 ms | simulated | p99 ms | simulated |", end="")
    print(" images a batch | simulated |\n|" + "---:|" * 10)
    for connections in CONNECTIONS:
        real, simulated = measured[str(connections)], Simulation(here, connections).run()
        off = simulated.requests_per_s / real.requests_per_s - 1
        print(f"| {connections} | {real.requests_per_s:,.0f} | {simulated.requests_per_s:,.0f} | {off:+.0%} |", end="")
        print(f" {real.p50_ms:.1f} | {simulated.p50_ms:.1f} | {real.p99_ms:.0f} | {simulated.p99_ms:.0f} |", end="")
        print(f" {real.mean_batch:.1f} | {simulated.mean_batch:.1f} |")


def print_other_machines(costs: dict[str, Cost], cpu_us: dict[str, float]) -> None:
    costs = {process: cost for process, cost in costs.items() if process != "client"}
    assumed = {**costs, "worker": Cost(request=2, batch=1000)}
    need = round(16 * cpu_us["HTTP process"] / (cpu_us["HTTP process"] + cpu_us["worker"]))
    machines = (
        Machine("2 cores", 2, 1, 1, costs),
        Machine("16 cores, halved as `auto` does", 16, 8, 8, costs),
        Machine("16 cores, split by need", 16, need, 16 - need, costs),
        Machine("16 cores, a GPU (assumed)", 16, 15, 1, assumed, gpu=True),
        Machine("the same, its worker gathering", 16, 15, 1, assumed, gpu=True, gathers=True),
    )
    print(
        "\n**4. Other machines, simulated.** 64 connections from elsewhere for each HTTP process; a GPU is assumed to"
    )
    print("take 1 ms for a batch and 2 µs for an image.\n")
    print("| | HTTP processes | workers | requests/s | p50 ms | images a batch |")
    print("|---|" + "---:|" * 5)
    for machine in machines:
        found = Simulation(machine, 64 * machine.http_processes).run()
        print(f"| {machine.name} | {machine.http_processes} | {machine.workers} |", end="")
        print(f" {found.requests_per_s:,.0f} | {found.p50_ms:.1f} | {found.mean_batch:.0f} |")


if __name__ == "__main__":
    sys.exit(main())
