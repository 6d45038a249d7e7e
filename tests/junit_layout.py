"""The layout of a JUnit report, by the rules of the Jenkins xUnit plugin's junit-10.xsd."""

from __future__ import annotations

from xml.etree import ElementTree as ET

SUITES = {"name", "time", "tests", "failures", "disabled", "errors"}
SUITE = {
    "name",
    "tests",
    "failures",
    "errors",
    "time",
    "disabled",
    "skipped",
    "timestamp",
    "hostname",
    "id",
    "package",
    "file",
    "log",
    "url",
}
CASE = {"name", "assertions", "time", "classname", "status", "class", "file", "line", "log", "group", "url"}
INNER = {"skipped": {"message", "type"}, "error": {"message", "type"}, "failure": {"message", "type"}, "system-out": set()}


def check_layout(root: ET.Element) -> None:
    assert root.tag == "testsuites"
    assert set(root.attrib) <= SUITES
    for suite in root:
        assert suite.tag == "testsuite"
        assert {"name", "tests"} <= set(suite.attrib) <= SUITE
        tags = [child.tag for child in suite]
        assert tags == ["properties"] + ["testcase"] * (len(tags) - 1)
        assert all(set(item.attrib) == {"name", "value"} for item in suite[0])
        cases = suite.findall("testcase")
        for case in cases:
            assert {"name"} <= set(case.attrib) <= CASE
            assert float(case.attrib["time"]) >= 0
            assert all(set(inner.attrib) <= INNER[inner.tag] for inner in case)
        for name, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
            assert int(suite.attrib[name]) == sum(case.find(tag) is not None for case in cases)
        assert int(suite.attrib["tests"]) == len(cases)
    for name in ("tests", "failures", "errors"):
        assert int(root.attrib[name]) == sum(int(suite.attrib[name]) for suite in root)
