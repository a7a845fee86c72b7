"""What a test may be skipped for; a skip that names anything else is a failure, so that nothing is lost unseen."""

import pytest

REASONS = ("card", "browser", "SLURM", "public data", "rights", "processor")


def _refuse(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip for another reason into a failure."""
    if not report.skipped or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    if not any(word in reason for word in REASONS):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid}: a test is skipped for want of {', '.join(REASONS)} alone; not: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Check the skip of a test."""
    report = yield
    _refuse(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Check the skip of a whole file."""
    report = yield
    _refuse(report)
    return report
