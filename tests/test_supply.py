"""The supply chain: the bill of materials that `make sbom` writes, and the workflow that runs the make commands."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from pip._internal.models.index import PyPI

from tests.documents import ROOT

WORKFLOW = (ROOT / ".github" / "workflows" / "ci.yml").read_text()


def test_the_bill_of_materials_has_every_pin_with_its_hashes_and_nothing_of_this_machine(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).symlink_to(ROOT / name)
    pinned = re.split(r"^(?=[\w.-]+==)", (ROOT / "requirements.lock").read_text(), flags=re.MULTILINE)
    lock = "".join(pinned[1::25])  # all of them take seconds
    (tmp_path / "requirements.lock").write_text(lock)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    environment = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "ARGS")}
    command = ["make", "VENV=.venv", "--old-file=.venv/.ready", "sbom"]  # with what is installed, whenever it was
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
    text = (tmp_path / "sbom.cdx.json").read_text()
    bom = json.loads(text)
    pins = re.findall(r"^([\w.-]+)==([^ ;]+)", lock, re.MULTILINE)
    assert len(pins) > 5
    assert {(part["name"], part["version"]) for part in bom["components"]} == set(pins)
    assert bom["metadata"]["component"]["name"] == "cifar-service"
    for part in bom["components"]:
        (source,) = part["externalReferences"]
        assert source["hashes"]
        assert source["url"].startswith(f"{PyPI.simple_url}/")
    assert not [path for path in (tmp_path, ROOT, Path.home(), Path(sys.prefix)) if str(path) + "/" in text]


def test_the_workflow_runs_our_targets_with_actions_that_cannot_be_moved_and_may_only_read() -> None:
    targets = re.findall(r"run: make (.*)", WORKFLOW)
    assert set(targets) == {"install", "lint", "test", "sbom", "audit"}
    assert all(re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE) for target in targets)
    uses = re.findall(r"uses: (.*)", WORKFLOW)
    assert uses
    assert all(re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", action) for action in uses)
    assert re.findall(r"permissions:\n((?: +.*\n)+)", WORKFLOW) == ["  contents: read\n"]
