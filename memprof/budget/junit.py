"""Checks as JUnit XML, which every CI server can show: a test case for each limit."""

from __future__ import annotations

from xml.etree import ElementTree

from memprof.budget.check import Check, Verdict
from memprof.budget.run import Outcome
from memprof.budget.text import advice, headline
from memprof.report.describe import plain

_ELEMENT = {
    Verdict.FAIL: "failure",
    Verdict.BROKEN: "error",
    Verdict.CHANGED: "error",
    Verdict.INCONCLUSIVE: "skipped",
    Verdict.NOT_MEASURED: "skipped",
}


def junit(outcome: Outcome) -> str:
    """The whole document. What XML cannot hold, control characters, is left out of names."""
    suite = ElementTree.Element("testsuite", name="memprof check")
    for check in outcome.checks:
        _case(suite, outcome, check)
    return _whole(suite)


def failure(message: str) -> str:
    """The whole document of a check that came to no result: one case, which is an error."""
    suite = ElementTree.Element("testsuite", name="memprof check")
    case = ElementTree.SubElement(suite, "testcase", classname="memprof", name="check")
    ElementTree.SubElement(case, "error", message=plain(message))
    return _whole(suite)


def _whole(suite: ElementTree.Element) -> str:
    suite.set("tests", str(len(suite)))
    for name, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(name, str(len(suite.findall(f"testcase/{element}"))))
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    ElementTree.indent(suites)
    return ElementTree.tostring(suites, encoding="unicode", xml_declaration=False) + "\n"


def _case(suite: ElementTree.Element, outcome: Outcome, check: Check) -> None:
    name = f"{check.limit.key} {check.limit.kind.value}"
    case = ElementTree.SubElement(suite, "testcase", classname=plain(check.budget.name), name=name)
    case.set("file", plain(outcome.file.source.name))
    if check.limit.line is not None:
        case.set("line", str(check.limit.line))
    kind = _ELEMENT.get(check.verdict)
    lines = [plain(line) for line in (*check.why, *advice(outcome, check))]
    if kind == "skipped":
        ElementTree.SubElement(case, kind, message=f"{check.verdict.value}: {'; '.join(check.why)}")
    elif kind is not None:
        ElementTree.SubElement(case, kind, message=plain(headline(check))).text = "\n".join(lines)
    elif check.verdict is Verdict.WARN:
        ElementTree.SubElement(case, "system-out").text = "\n".join([plain(headline(check)), *lines])
