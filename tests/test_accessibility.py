"""Pages that are read by people who do not see them: axe-core in headless Chromium, where both are."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("accessibility", ROOT / "scripts/accessibility.py")
accessibility = importlib.util.module_from_spec(spec)
spec.loader.exec_module(accessibility)
PAGE = '<!DOCTYPE html><html lang="en"><head><title>T</title></head><body><main><h1>T</h1>{}</main></body></html>'


@pytest.fixture
def axe():
    """axe.min.js, where D2K_AXE names it or npm has put it; a skip where it or Chromium is missing."""
    path = Path(os.environ.get("D2K_AXE", ROOT / "node_modules/axe-core/axe.min.js"))
    if not path.is_file():
        pytest.skip("no axe-core: npm install axe-core, or set D2K_AXE to its axe.min.js")
    if accessibility.browser() is None:
        pytest.skip("no Chromium on PATH")
    return path


def serious(found):
    return [v["id"] for v in found["violations"] if v["impact"] in accessibility.SERIOUS]


@pytest.mark.slow
def test_the_report_has_no_serious_error(axe, tmp_path):
    from d2net import api
    from d2net.data.annotations import load_annotations
    from d2net.data.features import open_features
    from d2net.data.synth import make_synthetic, write_synthetic
    from d2net.demo import demo_config
    from d2net.report.collect import collect
    from d2net.report.page import write_report

    features, annotations = write_synthetic(tmp_path / "data", make_synthetic(seed=0))
    store, known = open_features(features), load_annotations(annotations)
    api.train(store, known, tmp_path / "run", demo_config(20), device="cpu", progress=False)
    write_report(tmp_path / "report.html", collect([tmp_path / "run"], store, known, device="cpu", iou="0.5"), "T")
    assert serious(accessibility.checked(tmp_path / "report.html", axe)) == []


@pytest.mark.slow
def test_serious_errors_are_found(axe, tmp_path):
    page = tmp_path / "page.html"
    page.write_text(PAGE.format('<img src="data:,"><p style="color: #ccc; background: #fff">pale</p>'))
    assert {"image-alt", "color-contrast"} <= set(serious(accessibility.checked(page, axe)))


def test_without_chromium_the_error_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"chromium.* is on PATH; install Chromium"):
        accessibility.checked(tmp_path / "page.html", tmp_path / "axe.js")
