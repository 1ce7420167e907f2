"""The demo succeeds on its own terms, and fails where nothing was learned."""

from __future__ import annotations

import sys

from d2net.demo import run_demo


def test_demo_learns_and_says_where_everything_is(tmp_path, capsys):
    assert run_demo(tmp_path, iterations=150) == 0
    out = capsys.readouterr().out
    for name in ("data/features.npz", "run", "detections.json", "metrics.json", "video.png", "report.html"):
        assert str(tmp_path / name) in out and (tmp_path / name).exists()
    assert f"open {(tmp_path / 'report.html').as_uri()} in a browser" in out
    assert (tmp_path / "video.png").stat().st_size > 5000


def test_demo_fails_without_training_and_goes_on_without_matplotlib(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run_demo(tmp_path, iterations=1) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out and "picture      left out: pictures need matplotlib: pip install" in out
    assert not (tmp_path / "video.png").exists() and (tmp_path / "report.html").exists()
