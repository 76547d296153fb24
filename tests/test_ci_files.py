"""What runs in somebody else's CI: the action, the workflows, the scripts. Parsed, and tried where it can be."""

from __future__ import annotations

import csv
import gzip
import os
import re
import shlex
import stat
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml

ROOT = Path(__file__).parent.parent


def document(path: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))
    return loaded


def options_of(verb: str) -> set[str]:
    from typer.main import get_command

    from vanbench.cli.app import app

    command = get_command(app).commands[verb]  # type: ignore[attr-defined]
    return {option for parameter in command.params for option in parameter.opts}


def test_the_action_uses_every_input_and_no_input_is_ever_part_of_a_script() -> None:
    action = document("action.yml")
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    assert action["runs"]["using"] == "composite"
    for name in action["inputs"]:
        assert f"inputs.{name} " in text, f"{name} is not used"
    for step in action["runs"]["steps"]:
        assert "${{" not in step.get("run", ""), "an input in a script's text is somebody else's command"
        assert "uses" in step or step["shell"] == "bash"
    script = next(step["run"] for step in action["runs"]["steps"] if step.get("id") == "gate")
    assert set(re.findall(r"--[a-z-]+", script)) <= options_of("gate")


def test_our_own_pull_requests_go_through_the_gate_and_the_gate_is_tried_itself() -> None:
    jobs = document(".github/workflows/gate.yml")["jobs"]
    (gate,) = [step for step in jobs["gate"]["steps"] if step.get("uses") == "./"]
    assert set(gate["with"]) <= set(document("action.yml")["inputs"])
    assert {word for word in shlex.split(gate["with"]["arguments"]) if word.startswith("--")} <= options_of("gate")
    assert any(step.get("run") == ".ci/dead-gate" for step in jobs["dead-gate"]["steps"])
    assert ".ci/dead-gate" in (ROOT / ".ci" / "run").read_text()
    assert os.stat(ROOT / ".ci" / "dead-gate").st_mode & stat.S_IXUSR


FAKE = """#!/usr/bin/env bash
# The same arm twice leaves with $SAME, a slowed one with the next word of $SLOW.
for word in "$@"; do
    if [ "$word" = "slowdown=10%" ]; then
        count=$(($(cat "$STATE" 2>/dev/null || echo 0) + 1))
        echo "$count" > "$STATE"
        exit "$(echo "$SLOW" | cut -d' ' -f"$count")"
    fi
done
exit "$SAME"
"""


@pytest.mark.parametrize(
    ("same", "slow", "alive"),
    [
        ("0", "1", True),
        ("3", "1", True),
        ("4", "4 3 1", True),
        ("1", "1", False),
        ("2", "1", False),
        ("0", "0", False),
        ("0", "4 4 4 4 4", False),
        ("0", "4 4 4 4 1", True),
        ("0", "3 0", False),
    ],
)
def test_a_gate_that_fails_nothing_or_everything_is_dead(same: str, slow: str, alive: bool, tmp_path: Path) -> None:
    fake = tmp_path / "vanbench"
    fake.write_text(FAKE)
    fake.chmod(0o755)
    environment = {**os.environ, "VANBENCH": str(fake), "SAME": same, "SLOW": slow, "STATE": str(tmp_path / "state")}
    done = subprocess.run([ROOT / ".ci" / "dead-gate"], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode == 0) is alive, done.stderr
    assert ("dead gate" in done.stderr) is not alive


# --- the gates that were played on a real machine -------------------------------------------------------------------


def committed() -> list[Path]:
    return sorted((ROOT / "results").glob("*/gate_truth.csv"))


def test_the_gates_played_on_a_real_machine_stand() -> None:
    assert committed()
    for file in committed():
        rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
        by_truth: dict[float, list[str]] = {}
        for row in rows:
            by_truth.setdefault(float(row["slowdown_percent"]), []).append(row["verdict"])
        assert {truth: len(verdicts) for truth, verdicts in by_truth.items()} == {0.0: 20, 5.0: 10, 10.0: 10}
        assert "REGRESSED" not in by_truth[0.0]
        found = by_truth[5.0].count("REGRESSED")
        assert found >= 0.9 * len(by_truth[5.0])
        assert set(by_truth[10.0]) == {"REGRESSED"}


def test_their_verdicts_follow_from_the_turns_that_are_kept() -> None:
    from vanbench.analysis.gate import decide
    from vanbench.analysis.observation import Observed
    from vanbench.analysis.ratio import middle_half
    from vanbench.spec.rules import Rules

    for file in committed():
        rows = {row["gate"]: row for row in csv.DictReader(file.read_text(encoding="utf-8").splitlines())}
        gates = msgspec.json.decode(gzip.decompress(file.with_name("gate_turns.json.gz").read_bytes()))["gates"]
        assert {gate["gate"] for gate in gates} == set(rows)
        for gate in gates:
            said = [rows[gate["gate"]][name] for name in ("first", "second")]
            for blocks, verdict in zip(gate["passes"], said, strict=False):
                observed = [observed_of(block, middle_half, Observed) for block in blocks]
                judged = decide(observed, Rules(), over=True)
                assert judged is not None
                assert str(judged.verdict) == verdict, gate["gate"]


def observed_of(block: dict[str, Any], middle_half: Any, observed: Any) -> Any:
    import math

    base, head, twin = ([math.log(seconds) for seconds in each] for each in block["turns"])
    both = [middle_half([one - h for one, h in zip(each, head, strict=True)]) for each in (base, twin)]
    change = (both[0] + both[1]) / 2
    return observed(change, middle_half([b - t for b, t in zip(base, twin, strict=True)]), void=block["void"])
