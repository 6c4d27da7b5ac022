"""What holds for every test: no skip without a listed reason, and the same examples in every CI run."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import hypothesis
import pytest

_LIST = Path(__file__).with_name("skips.txt")
_SKIPS = pytest.StashKey["Skips"]()

hypothesis.settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.register_profile("here", deadline=None)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--skips",
        metavar="FILE",
        type=Path,
        default=_LIST if os.environ.get("CI") else None,
        help="fail if a test is skipped that FILE does not list as 'nodeid: reason' (where CI is set: tests/skips.txt)",
    )


def pytest_configure(config: pytest.Config) -> None:
    # A shell without job control starts what it puts in the background with these ignored, and that is inherited:
    # the tests ask what becomes of them where they are not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # of nohup
    path = config.getoption("skips")
    if path is not None:
        skips = config.stash[_SKIPS] = Skips(path)
        config.pluginmanager.register(skips, "skips")


class Skips:
    """The skips of a run, held to the list in `path`; one that it lacks makes the exit status 1."""

    def __init__(self, path: Path) -> None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise pytest.UsageError(f"cannot read the list of skips: {error}") from error
        self.path = path
        self.allowed = [
            re.compile(".*".join(map(re.escape, line.strip().split("*"))))
            for line in lines
            if line.strip() and not line.startswith("#")
        ]
        self.unlisted: list[str] = []

    def _see(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        skip = f"{report.nodeid}: {reason.removeprefix('Skipped: ')}"
        if not any(allowed.fullmatch(skip) for allowed in self.allowed):
            self.unlisted.append(skip)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._see(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._see(report)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if self.unlisted and session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self.unlisted:
            terminalreporter.section(f"skipped without a line in {self.path}", red=True)
            for skip in self.unlisted:
                terminalreporter.line(skip)
