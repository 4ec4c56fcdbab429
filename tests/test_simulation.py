"""The simulation behind docs/scaling.md agrees with arithmetic, where that is possible."""

import pytest

from benchmarks.costs import Cost
from benchmarks.simulation import Machine, Simulation

COSTS = {"HTTP process": Cost(request=50, batch=100), "worker": Cost(request=10, batch=200)}


def test_a_lone_request_takes_as_long_as_its_stages_together() -> None:
    seen = Simulation(Machine("one", 2, 1, 1, COSTS), connections=1, requests=500).run()
    assert seen.mean_batch == 1
    assert seen.p50_ms == pytest.approx(0.36)
    assert seen.requests_per_s == pytest.approx(1e6 / 360)


def test_under_load_the_slowest_process_is_always_at_work() -> None:
    seen = Simulation(Machine("one", 2, 1, 1, COSTS), connections=256, requests=2000).run()
    assert seen.requests_per_s == pytest.approx(1e6 / (50 + 100 / seen.mean_batch), rel=0.05)
    worker_bound = {**COSTS, "worker": Cost(request=100, batch=200)}
    seen = Simulation(Machine("one", 2, 1, 1, worker_bound), connections=256, requests=2000).run()
    assert seen.mean_batch == pytest.approx(64, rel=0.05)
    assert seen.requests_per_s == pytest.approx(1e6 / (100 + 200 / 64), rel=0.05)


def test_processes_that_share_one_core_share_its_time() -> None:
    seen = Simulation(Machine("one", 1, 1, 1, COSTS), connections=64, requests=2000).run()
    assert seen.requests_per_s == pytest.approx(1e6 / (50 + 10 + 300 / seen.mean_batch), rel=0.05)
    twice = Simulation(Machine("two", 4, 2, 2, COSTS), connections=512, requests=4000).run()
    assert twice.requests_per_s > 1.8 * seen.requests_per_s
