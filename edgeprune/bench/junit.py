"""Results as a JUnit report, which CI servers read (layout of the Jenkins xUnit plugin's ``junit-10.xsd``)."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

_NOT_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One check.  ``state``: ``passed``, ``failed``, ``error`` (it could not be made) or ``skipped`` (no verdict)."""

    name: str
    classname: str
    state: str = "passed"
    message: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Suite:
    """All checks of one device; ``properties`` describe it."""

    name: str
    cases: Sequence[Case]
    properties: dict[str, str] = field(default_factory=dict)


def junit_xml(suites: Sequence[Suite]) -> str:
    """The report, as an XML document."""
    root = ET.Element("testsuites", _counts([case for suite in suites for case in suite.cases], "edgeprune"))
    del root.attrib["skipped"]  # the schema has it on suites only
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S")
    for suite in suites:
        element = ET.SubElement(root, "testsuite", _counts(suite.cases, suite.name) | {"timestamp": now})
        properties = ET.SubElement(element, "properties")
        for name, value in suite.properties.items():
            ET.SubElement(properties, "property", {"name": _text(name), "value": _text(value)})
        for case in suite.cases:
            _add(element, case)
    ET.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(root, encoding="unicode") + "\n"


def _add(suite: ET.Element, case: Case) -> None:
    plain = {"name": _text(case.name), "classname": _text(case.classname), "time": f"{case.seconds:.3f}"}
    element = ET.SubElement(suite, "testcase", plain)
    tag = {"failed": "failure", "error": "error", "skipped": "skipped"}.get(case.state)
    if tag:
        kind = {} if tag == "skipped" else {"type": f"edgeprune.{case.state}"}
        ET.SubElement(element, tag, {"message": _text(case.message)} | kind)
    elif case.message:
        ET.SubElement(element, "system-out").text = _text(case.message)


def _counts(cases: Sequence[Case], name: str) -> dict[str, str]:
    states = [case.state for case in cases]
    return {
        "name": _text(name),
        "tests": str(len(cases)),
        "failures": str(states.count("failed")),
        "errors": str(states.count("error")),
        "skipped": str(states.count("skipped")),
        "time": f"{sum(case.seconds for case in cases):.3f}",
    }


def _text(text: str) -> str:
    """Without characters that XML 1.0 cannot hold."""
    return _NOT_XML.sub("?", text)
