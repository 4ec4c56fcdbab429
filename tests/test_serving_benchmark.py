"""A run of benchmarks.serving that was stopped goes on as if it had not been."""

from pathlib import Path

import pytest

from benchmarks import serving
from benchmarks.columns import Cell, Trial
from benchmarks.lineup import all_servers
from benchmarks.results import Results


def test_memory_is_read_after_all_the_loads_and_what_was_found_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, results, ran = all_servers()[0], Results(tmp_path / "serving.jsonl"), list[str]()
    results.add(server.name, 1, "start", seconds=1.0)
    results.add(server.name, 1, "16", found=1)

    def load(trial: Trial) -> Cell:
        ran.append("16")
        return {"found": 2}

    def memory(trial: Trial) -> Cell:
        ran.append("memory")
        return {"found": 3}

    monkeypatch.setattr(serving, "COLUMNS", {"16": load, "memory": memory})
    monkeypatch.setattr(serving, "run_wrk", lambda *load: None)  # the warm-up; wrk is not everywhere
    plan = serving.Plan(["16", "memory"], 1, serving.pictures(4), [])
    serving.measure(server, 1, plan, results)
    assert ran == ["16", "memory"]
    assert results.values(server.name, "start", "seconds") == [1.0]
    assert [results.values(server.name, column, "found") for column in ("16", "memory")] == [[1], [3]]
