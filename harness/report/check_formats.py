"""A check's result for a person, for GitHub Actions, for JUnit readers and as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Any
from xml.etree import ElementTree as ET

from harness.escape import github_line, github_message, github_property, xml
from harness.evidence.check import CheckResult
from harness.evidence.gates import Gate, Outcome
from harness.evidence.rows import title_of
from harness.evidence.sides import Side
from harness.render.document import Block, Bullets, Heading, Paragraph, Table, as_markdown

WORDS: dict[Outcome, str] = {"pass": "pass", "fail": "FAIL", "cannot_tell": "cannot tell"}
CLOSING: dict[Outcome, str] = {
    "pass": "Pass: no regression.",
    "fail": "Fail: the candidate got worse.",
    "cannot_tell": "Cannot tell whether the candidate got worse.",
}
# How GitHub shows a gate that does not pass.
_COMMANDS: dict[Outcome, str] = {"pass": "notice", "fail": "error", "cannot_tell": "warning"}


def describe(side: Side) -> str:
    """A side in words: its name, its runs, and what they were asked."""
    spec, seeds = side.group.first.spec, ", ".join(map(str, side.group.seeds))
    return (
        f"{side.name} (seed {seeds}; {title_of(side.group.first)}, {spec.model.name}, {spec.task.scoring}, "
        f"{len(side.outcomes.example_ids)} items; {side.group.first.run_id})"
    )


def closing(result: CheckResult) -> str:
    """The answer in a line. Of single runs it says so: another seed of the same method may pass or fail."""
    return f"{CLOSING[result.outcome]}{f' [{result.caveat}]' if result.caveat else ''}"


def _verdict(gate: Gate) -> str:
    told = WORDS[gate.outcome] if gate.required else f"({WORDS[gate.outcome]}, shown only)"
    if not gate.caveat:
        return told
    return f"{told} (these runs)" if gate.numbers["scope"] == "runs" else f"{told} (assumed seed sd)"


def blocks_of(result: CheckResult) -> list[Block]:
    """The result for a person."""
    rows = [[gate.name, _verdict(gate), gate.message] for gate in result.gates]
    blocks: list[Block] = [
        Heading(f"Check: {closing(result)}"),
        Paragraph(f"baseline:  {describe(result.baseline)}"),
        Paragraph(f"candidate: {describe(result.candidate)}"),
        Table("", ["gate", "answer", "why"], rows, fold=(2,), left=(0, 1, 2)),
    ]
    if result.audit:
        blocks.append(Paragraph("Besides the strategy and its learning rate these differ:"))
        blocks.append(Bullets([str(difference) for difference in result.audit]))
    if result.notes:
        blocks.append(Bullets(result.notes))
    return blocks


def as_data(result: CheckResult) -> dict[str, Any]:
    """The result as JSON. Differences and the margin are fractions of 1."""

    def side(own: Side) -> dict[str, Any]:
        return {
            "name": own.name, "runs": [r.run_id for r in own.group.records], "seeds": list(own.group.seeds),
            "title": title_of(own.group.first), "items": len(own.outcomes.example_ids),
            "accuracy": float(own.outcomes.correct.mean()), "environments": sorted(own.fingerprints),
        }  # fmt: skip

    return {
        "schema_version": 1,
        "outcome": result.outcome,
        "caveat": result.caveat,
        "exit_code": result.exit_code,
        "baseline": side(result.baseline),
        "candidate": side(result.candidate),
        "gates": [dataclasses.asdict(gate) for gate in result.gates],
        "audit": [dataclasses.asdict(difference) for difference in result.audit],
        "notes": list(result.notes),
    }


def as_json(result: CheckResult) -> str:
    return json.dumps(as_data(result), indent=1, allow_nan=False)


def as_github(result: CheckResult) -> str:
    """Workflow commands, one a required gate, that GitHub shows as annotations."""
    lines = []
    for gate in result.gates:
        command = _COMMANDS[gate.outcome] if gate.required else "notice"
        title = github_property(f"medtune check, {gate.name}: {_verdict(gate)}")
        lines.append(f"::{command} title={title}::{github_message(gate.message)}")
    lines.append(github_line(f"{closing(result)} {result.candidate.name} against {result.baseline.name}"))
    return "\n".join(lines) + "\n"


def as_summary(result: CheckResult) -> str:
    """Markdown for a job's summary page."""
    return as_markdown(blocks_of(result))


def as_junit(result: CheckResult) -> str:
    """A JUnit test suite with one test case a gate: `failure` where it fails, `error` where it cannot tell."""
    required = [gate for gate in result.gates if gate.required]
    counts = {
        "tests": len(result.gates),
        "failures": sum(gate.outcome == "fail" for gate in required),
        "errors": sum(gate.outcome == "cannot_tell" for gate in required),
        "skipped": len(result.gates) - len(required),
    }
    attributes = {name: str(count) for name, count in counts.items()}
    about = f" [{result.caveat}]" if result.caveat else ""
    name = xml(f"check {result.candidate.name} against {result.baseline.name}{about}")
    suites = ET.Element("testsuites", attributes)
    suite = ET.SubElement(suites, "testsuite", {"name": name, **attributes})
    for gate in result.gates:
        case = ET.SubElement(suite, "testcase", {"classname": "medtune.check", "name": gate.name})
        if not gate.required:
            ET.SubElement(case, "skipped", {"message": xml(f"{_verdict(gate)}: {gate.message}")})
        elif gate.outcome != "pass":
            kind = "failure" if gate.outcome == "fail" else "error"
            ET.SubElement(case, kind, {"message": xml(gate.message), "type": gate.outcome})
        numbers = [f"{key} = {value}" for key, value in gate.numbers.items()]
        ET.SubElement(case, "system-out").text = xml("\n".join([gate.message, *numbers]))
    told = [closing(result), *map(str, result.audit), *result.notes]
    ET.SubElement(suite, "system-out").text = xml("\n".join(told))
    ET.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(suites, encoding="unicode") + "\n"
