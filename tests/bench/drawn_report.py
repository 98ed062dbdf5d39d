"""A report with one row of every kind, made without measuring anything."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fer_deploy.bench.cost import ModelCost
from fer_deploy.bench.latency import BatchRate, Block, Parts, Throughput, summarise
from fer_deploy.bench.quality import measure_quality
from fer_deploy.bench.report import Data, Load, Pair, Report, Row, digits

LABELS = np.random.default_rng(0).integers(0, 7, 400)
VOTES = np.random.default_rng(1).multinomial(10, [0.1] * 10, 400).astype(np.uint8)


def row(name: str, *, wrong: int, gflops: float | None, ms: float, engine: str = "ort-cpu", **changes) -> Row:
    predicted = LABELS.copy()
    predicted[:wrong] = (predicted[:wrong] + 1) % 7
    probabilities = np.full((400, 7), 0.05)
    probabilities[np.arange(400), predicted] = 0.7
    random = np.random.default_rng(2)
    blocks = [Block(tuple(int(ms * 1e6 * random.uniform(0.9, 1.2)) for _ in range(250)), 1, None) for _ in range(4)]
    made = Row(
        name,
        "file",
        "fp32",
        engine,
        provider="CPUExecutionProvider",
        quality=measure_quality(probabilities, LABELS, unseen=np.arange(400) > 20, votes=VOTES),
        cost=ModelCost(gflops=gflops, params=4_014_658, bytes=16_500_000),
        latency=summarise(blocks, batch=1, threads=1),
        throughput=Throughput(32, 900.0, (BatchRate(32, 900.0),)),
        load=Load(20.0, 3.0, 80_000_000),
        predictions=digits(predicted),
    )
    return replace(made, **changes)


def report() -> Report:
    on_device = row("B", wrong=120, gflops=0.0232, ms=0.4, engine="torch-cuda")
    return Report(
        created="2026-01-02T03:04:05+00:00",
        ferdeploy_version="0.1.0",
        machine={
            "processor": "A Processor <fast>", "cores": 2, "instructions": ["avx2"], "architecture": "x86_64",
            "memory_bytes": 1, "system": "Linux 6", "python": "3.11.7", "versions": {"onnxruntime": "1.20.0"},
            "accelerators": ["A GPU"], "load_at_start": 0.1,
        },
        settings={"engines": ["ort-cpu"], "peers": [], "threads": 1, "latency": None, "max_rows": None},
        data=Data("FER2013", "ab" * 32, "PrivateTest", 400, 400, 379, True, digits(LABELS)),
        rows=(
            row("B", wrong=120, gflops=0.0232, ms=1.6),
            row("B", wrong=121, gflops=0.0232, ms=0.9, precision="int8"),
            row("E", wrong=130, gflops=0.0232, ms=1.6),
            row("B+E", wrong=100, gflops=0.0464, ms=3.2),
            row("plain", wrong=110, gflops=0.01, ms=0.4),
            replace(on_device, latency=replace(on_device.latency, parts=Parts(0.1, 0.2, 0.1))),
            row("facex", wrong=200, gflops=None, ms=60.0, engine="peer", kind="peer", note="facex 1.1.0: call"),
            Row("B", "file", "fp32", "torch-mps", status="absent: this PyTorch has no MPS device"),
            Row("E", "file", "fp32", "torch-mps", status="absent: this PyTorch has no MPS device"),
        ),
        pairs=(
            Pair("B on ort-cpu", "E on ort-cpu", 10, 0, 0.00195), Pair("B on ort-cpu", "plain on ort-cpu", 0, 10, 1e-9),
        ),
        warnings=("a machine <b>busy</b>",),
    )  # fmt: skip
