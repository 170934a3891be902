"""What all tests share: where the real models are, and the seed of random tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

#: Real models and data live beside the checkout; they are not part of the project.
SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with the MLPerf Tiny models, their data and the published figures."""
    if not SHARED.is_dir():
        pytest.skip("the shared models and data (../shared) are not here")
    return SHARED


@pytest.fixture(scope="session")
def mlperf(shared: Path) -> Path:
    """The MLPerf Tiny models."""
    return shared / "models" / "mlperf_tiny"


@pytest.fixture(scope="session")
def sample() -> float:
    """Scale of the slow batteries: 1.0 is the full one, CI sets a smaller share."""
    return float(os.environ.get("EDGEKIT_SAMPLE", "1.0"))


@pytest.fixture
def seed(request: pytest.FixtureRequest, record_property: object) -> int:
    """A seed for random tests: EDGEKIT_SEED if set, else fixed per test; printed on failure."""
    chosen = int(os.environ.get("EDGEKIT_SEED", "20261120"))
    print(f"EDGEKIT_SEED={chosen}")
    return chosen


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints the figures that tests recorded, so that every run shows where we stand."""
    lines = [
        str(value)
        for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed")
        for key, value in report.user_properties
        if key == "figures"
    ]
    if lines:
        terminalreporter.section("figures (simulated, exact)")
        for line in sorted(lines):
            terminalreporter.write_line(line)
