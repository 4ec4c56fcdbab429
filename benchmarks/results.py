"""What benchmarks.serving measured: a line of JSON for every cell of every round."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

RESULTS = Path("runs/serving.jsonl")


class Results:
    """The lines of the file `path`, which need not exist yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in path.open()] if path.exists() else []

    def add(self, server: str, number: int, column: str, **found: Any) -> None:
        """Appends what was found in round `number`, and prints it."""
        self.lines.append({"server": server, "round": number, "column": column, **found})
        with self._path.open("a") as file:
            file.write(json.dumps(self.lines[-1]) + "\n")
        texts = (
            f"{name} {value:,.1f}" if isinstance(value, float) else f"{name} {value}" for name, value in found.items()
        )
        print(number, server, f"{column}:", *texts, sep="  ", flush=True)

    def log(self, server: str) -> Path:
        """The file for the output of a server."""
        return self._path.with_name(re.sub(r"\W+", "-", server) + ".log")

    def has(self, server: str, number: int, column: str) -> bool:
        return any((line["server"], line["round"], line["column"]) == (server, number, column) for line in self.lines)

    def values(self, server: str, column: str, name: str) -> list[Any]:
        """One from each round that has it."""
        here = (line for line in self.lines if (line["server"], line["column"]) == (server, column))
        return [line[name] for line in here if name in line]

    def median(self, server: str, column: str, name: str) -> float | None:
        values = self.values(server, column, name)
        return statistics.median(values) if values else None
