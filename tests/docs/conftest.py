"""What the tests of the documentation share: the site's generator, and one made-up data set."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(Path(__file__).parent), str(ROOT / "scripts")]


@pytest.fixture(scope="session")
def site() -> ModuleType:
    """scripts/docs.py."""
    spec = importlib.util.spec_from_file_location("docs_script", ROOT / "scripts/docs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that pages are given."""
    import data

    folder = tmp_path_factory.mktemp("docs") / "given"
    folder.mkdir()
    data.shared(folder)
    data.dialects(folder)
    return folder
