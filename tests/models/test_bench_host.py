"""``edgekit bench --target host``: digests of the published models, and equal runtimes."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.bench_host import HostRun, bench_host, measurements
from edgekit.graph import read_model
from edgekit.quality.synthetic import digest, synthetic_inputs
from edgekit.runtimes import open_runner

DIGESTS = {
    "kws_dscnn": ("ccc32d71", 24272),
    "ic_resnet": ("d08a0ace", 55984),
    "vww_mobilenet": ("3a5f7f09", 103680),
    "ad_autoencoder": ("7d469e9e", 3984),
}


@pytest.mark.parametrize("name", DIGESTS)
def test_tflm_digest_and_arena(mlperf: Path, name: str) -> None:
    model = read_model(mlperf / f"{name}_int8.tflite")
    with open_runner("tflm", model.raw) as runner:
        outputs = runner.invoke(*synthetic_inputs(model)[0])
        assert (digest(outputs), runner.allocations()["total"]) == DIGESTS[name]


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", DIGESTS)
def test_reference_kernels_digest(mlperf: Path, name: str) -> None:
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    model = read_model(mlperf / f"{name}_int8.tflite")
    with open_runner("litert-ref", model.raw) as runner:
        assert digest(runner.invoke(*synthetic_inputs(model)[0])) == DIGESTS[name][0]


@pytest.mark.tensorflow
def test_bench(mlperf: Path) -> None:
    pytest.importorskip("tensorflow", reason="TensorFlow is not installed")
    model = read_model(mlperf / "kws_dscnn_int8.tflite")
    found = bench_host(model, runs=3, warmups=1, threads=2)
    assert [run.runtime for run in found.results] == ["tflm", "litert-ref", "litert", "litert"]
    assert found.reference_kernels_agree is True
    assert found.results[0].digest == "ccc32d71"
    assert all(len(run.latencies_us) == 3 for run in found.results)
    records = measurements(model, found)
    assert all(record.kind == "measured" for record in records)
    assert records[0].memory["arena_bytes"] == 24272


def test_percentiles() -> None:
    run = HostRun("tflm", 1, "t", latencies_us=tuple(float(i) for i in range(1, 101)))
    shares = (0.0, 0.5, 0.9, 0.99, 1.0)
    assert [run.percentile_us(share) for share in shares] == [1.0, 50.0, 90.0, 99.0, 100.0]
    assert HostRun("tflm", 1, "t").percentile_us(0.5) is None
