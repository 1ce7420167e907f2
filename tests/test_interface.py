"""An extension that was compiled from other sources than the checkout's serves nobody, and says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from d2kernels import _interface, _native, backends

ROOT = Path(__file__).parents[1]


@pytest.fixture
def checkout(tmp_path):
    if not (ROOT / "csrc").is_dir():
        pytest.skip("no sources beside the package")
    for folder in _interface.FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder)
    (tmp_path / "d2kernels").mkdir()
    (tmp_path / "d2kernels/_compiled.json").write_text(json.dumps({"interface": _interface.interface(tmp_path)}))
    return tmp_path


def test_the_digest_is_of_names_and_contents(checkout):
    assert _interface.stale(checkout / "d2kernels") is None
    header = checkout / "csrc/include/d2kernels/team.h"
    text = header.read_text()
    header.write_text(text + "\n")
    assert "of other sources" in _interface.stale(checkout / "d2kernels")
    header.write_text(text)
    assert _interface.stale(checkout / "d2kernels") is None
    (header.parent / ".team.h.swp").write_text("an editor's")
    assert _interface.stale(checkout / "d2kernels") is None
    header.rename(header.with_name("crew.h"))
    assert "make install" in _interface.stale(checkout / "d2kernels")


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"interface": 3}'])
def test_what_nobody_wrote_down_is_not_trusted(checkout, text):
    record = checkout / "d2kernels/_compiled.json"
    record.unlink() if text is None else record.write_text(text)
    assert "of other sources" in _interface.stale(checkout / "d2kernels")


def test_an_installed_package_has_nothing_to_compare(checkout):
    shutil.rmtree(checkout / "csrc")
    assert _interface.stale(checkout / "d2kernels") is None


def test_a_stale_extension_warns_and_serves_nothing(monkeypatch):
    if _native.extension()[0] is None:
        pytest.skip("no compiled extension")
    monkeypatch.setattr(_interface, "stale", lambda package: "of other sources")
    _native.extension.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="of other sources"):
            assert not backends.can_run("nms", "native")
        assert backends.explain("nms")["native"] == "of other sources"
    finally:
        _native.extension.cache_clear()
