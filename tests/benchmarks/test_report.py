"""The report, its plots, and the arithmetic behind them."""

from __future__ import annotations

import json

import minimal
import pytest
import report
import roofline
import rows as of
import workloads

CEILINGS = {"copy": 10e9, "float32": 100e9}
TIME = {"median": 2e-3, "q1": 1.9e-3, "q3": 2.1e-3, "rounds": 9}


def row(**changes):
    return {
        **{"op": "topk_pool", "work": "THUMOS", "direction": "forward", "dtype": "float32", "backend": "native"},
        **{"device": "cpu", "axis": None, "status": "ok", "seconds": TIME, "peak_memory": 5e6},
        **{"bytes": 1e7, "flops": 1e7, "peers": []},
    } | changes


PEERS = [
    {"name": "torch.topk", "status": "ok", "seconds": TIME, "ratio": {"median": 8.25, "q1": 8, "q3": 9, "rounds": 9}},
    {"name": "np.partition", "status": "wrong", "reason": "relative error 0.1, allowed 1e-06", "error": 0.1},
    {"name": "cupy", "status": "skipped", "reason": "CuPy is not installed"},
]


def written(tmp_path, rows):
    source = tmp_path / "bench.json"
    machine = {"device": "a CPU", "kind": "cpu", "threads": 2, "torch": "2", "full": False, "ceilings": CEILINGS}
    benchmarks = [{"name": "x", "extra_info": {"row": r}} for r in rows]
    source.write_text(json.dumps({"machine_info": {"d2k": machine}, "benchmarks": benchmarks}))
    report.main([str(source), "--out", str(tmp_path)])
    return (tmp_path / "report.md").read_text()


def test_what_a_selection_measured_is_printed_alone(tmp_path, capsys):
    before, printed = written(tmp_path, [row(work="Whole")]), capsys.readouterr().out
    source = tmp_path / "bench.json"
    source.write_text(source.read_text().replace("Whole", "Other"))
    report.main([str(source), "--out", str(tmp_path), "--print"])
    assert (tmp_path / "report.md").read_text() == before
    assert capsys.readouterr().out == printed.partition("written: ")[0].replace("Whole", "Other")


def test_every_figure_and_every_reason_is_in_the_report(tmp_path, capsys):
    growth = [row(axis=["snippets", 10**i], work=f"snippets={10**i}") for i in (2, 3)]
    text = written(tmp_path, [row(peers=PEERS), row(work="overhead", peers=PEERS[:1]), *growth])
    printed = capsys.readouterr().out
    for part in ("2 ms", "50%", "torch.topk: 8.25× (8–9)", "np.partition: wrong", "5 MB", "a CPU, 2 threads"):
        assert part in text, part
    assert "torch.topk 8.25× (8–9)" in printed and "np.partition wrong" in printed
    assert "cupy: CuPy is not installed" in text and "relative error 0.1" in text
    drawn = sorted(p.name for p in (tmp_path / "plots").iterdir())
    assert len(drawn) == 4 and all(f"plots/{name}" in text for name in drawn)
    assert all((tmp_path / "plots" / name).stat().st_size < 100_000 for name in drawn)


def test_a_wrong_result_of_ours_has_no_time_and_no_bar(tmp_path):
    broken = row(status="wrong", peers=[])
    del broken["seconds"]
    text = written(tmp_path, [broken])
    assert "| wrong |" in text and "2 ms" not in text


def test_each_kernel_is_listed_with_what_has_run_it(tmp_path):
    import verified

    text = written(tmp_path, [row()])
    for name, standing in verified.standings().items():
        assert f"- {name}: {standing.says(name)}" in text


def test_each_gpus_newest_run_has_a_section_of_its_own(tmp_path):
    def run(name, device, date, *rows):
        machine = {"d2k": {"device": device, "kind": "cuda", "threads": 2, "torch": "2", "ceilings": CEILINGS}}
        steps = {"ops": {"status": "passed"}} | {f"bench {i}": {"rows": [{"row": r}]} for i, r in enumerate(rows)}
        tree = {"device": device, "date": date, "machine": machine if rows else None, "steps": steps}
        (tmp_path / f"{name}.json").write_text(json.dumps(tree))

    assert "No GPU run" in report.gpu_section(tmp_path)[0]
    run("a", "NVIDIA H100", "2026-01-02", row(op="nms"))
    run("b", "NVIDIA H100", "2026-01-01", row(op="svd"))
    run("c", "NVIDIA H200", "2026-01-01", row(op="pdmi"), row(op="localize"))
    run("d", "NVIDIA A100", "2026-01-01")
    text = "\n".join(report.gpu_section(tmp_path))
    for part in ("### NVIDIA H100\n", "#### nms", "### NVIDIA H200\n", "#### pdmi", "#### localize"):
        assert part in text
    assert "svd" not in text and "`results/d.json`: no benchmark was run." in text


def test_share_of_the_limit_is_of_the_slower_of_memory_and_products():
    assert roofline.share(row(), CEILINGS) == pytest.approx(0.5)  # 1e7 bytes at 1e10 a second, in 2 ms
    assert roofline.share(row(flops=1e8, bytes=0), CEILINGS) == pytest.approx(0.5)
    assert roofline.share(row() | {"graph_seconds": {"median": 1e-3}}, CEILINGS) == pytest.approx(1)
    bare = row()
    del bare["bytes"]
    assert roofline.share(bare, CEILINGS) is None and roofline.share(row(), {}) is None


def test_ceilings_are_measured():
    import torch

    found = roofline.measure(torch.device("cpu"), seconds=0.01)
    assert found["copy"] > 1e8 and found["float32"] > 1e9 and set(found) == {"copy", "float32", "bfloat16"}


def test_costs():
    products = minimal.temporal_conv(workloads.FULL, 4, False)[1]
    assert products == 2 * 7500 * 2048 * 1024 * 3
    assert minimal.temporal_conv(workloads.FULL, 4, True)[1] == 3 * products
    assert minimal.topk_pool(7500, 20, 10, 4, False)[0] == 7500 * 20 * 4 + 10 * 20 * 4
    assert minimal.elements(10, 8, backward=True) == (160, 0)


def test_workloads_are_those_of_thumos():
    lengths = workloads.thumos_lengths(2000)
    assert min(lengths) >= 20 and max(lengths) <= 2202
    assert sorted(lengths)[1000] == pytest.approx(235, abs=2)
    work = workloads.THUMOS
    assert len(work.lengths) == 10 and work.longest <= 750
    assert 0.42 < work.total / (10 * work.longest) < 0.45


def test_figures_in_words():
    assert [of.seconds(x) for x in (2.5, 2.5e-3, 2.5e-6, 2.5e-9, None)] == ["2.5 s", "2.5 ms", "2.5 µs", "2.5 ns", "–"]
    assert [of.size(x) for x in (1.5e9, 1.5e3, 15, None)] == ["1.5 GB", "1.5 kB", "15 B", "–"]
