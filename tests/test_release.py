"""What a release goes by: one version in every place, workflows whose steps exist, wheels that say what they hold."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
SCRIPTS = ROOT / "scripts"
WORKFLOWS = sorted(ROOT.glob(".github/workflows/*.yml"))


def load(name, monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def release(monkeypatch):
    return load("release", monkeypatch)


def test_every_place_names_the_same_version(release):
    assert release.disagreements(release.package_version()) == []


def test_a_tag_that_is_no_version_of_this_tree_is_refused(release):
    against = release.disagreements("9.0.0")
    assert len(against) == 3 and "not 9.0.0" in against[0] and "[9.0.0]" in against[2]
    done = subprocess.run([sys.executable, SCRIPTS / "release.py", "v9.0.0"], capture_output=True, text=True)
    assert done.returncode == 1 and done.stdout == "" and "CITATION.cff has no line" in done.stderr
    done = subprocess.run([sys.executable, SCRIPTS / "release.py", "9"], capture_output=True, text=True)
    assert done.returncode == 1 and "give the tag" in done.stderr


def test_notes_of_a_release_are_its_section(release):
    text = "# Changelog\n\n## [Unreleased]\n\n## [1.1.0] - 2026-01-02\n\n- b\n\n## [1.0.0]\n\n- a\n"
    assert release.sections(text) == {"Unreleased": "", "1.1.0": "- b", "1.0.0": "- a"}


def steps():
    for path in WORKFLOWS:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for step in job["steps"]:
                yield path.name, step


def test_workflows_run_what_is_there():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    asked = " && ".join(step["run"] for _, step in steps() if "run" in step)
    made = set(re.findall(r"\bmake ([a-z]+)", asked)) - {"ninja"}
    assert {"lint", "test", "docs", "wheel", "install"} <= made <= targets
    scripts = set(re.findall(r"scripts/[\w.]+|\.ci/\w+", asked))
    assert ".ci/run" in scripts and all((ROOT / script).is_file() for script in scripts)
    on_its_own = (ROOT / ".ci/run").read_text()
    assert all(f"make {target}" in on_its_own for target in ("lint", "test", "docs")) and "wheels.py" in on_its_own


def test_actions_are_pinned():
    uses = {step["uses"] for _, step in steps() if "uses" in step}
    assert uses and all(re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d[\d.]*|release/v1)", name) for name in uses), uses


def test_files_that_others_read_fit_their_schemas():
    pytest.importorskip("check_jsonschema")
    done = subprocess.run([sys.executable, SCRIPTS / "schemas.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_workflow_with_a_mistake_is_found(monkeypatch, tmp_path):
    pytest.importorskip("check_jsonschema")
    schemas = load("schemas", monkeypatch)
    wrong = tmp_path / "ci.yml"
    wrong.write_text(WORKFLOWS[0].read_text().replace("runs-on:", "runs:", 1))
    monkeypatch.setattr(schemas, "FILES", {"github-workflows": [wrong]})
    assert schemas.main() == 1


def test_a_wheel_that_would_bring_libraries_along_is_refused(monkeypatch, tmp_path):
    import zipfile

    wheels = load("wheels", monkeypatch)

    def auditwheel(command, **_):
        with zipfile.ZipFile(Path(command[command.index("-w") + 1]) / "a.whl", "w") as wheel:
            wheel.writestr("d2kernels.libs/libgomp-1.so", "")

    (tmp_path / "repaired").mkdir()
    monkeypatch.setattr(wheels, "WORK", tmp_path)
    monkeypatch.setattr(wheels.shutil, "rmtree", lambda *_, **__: None)
    monkeypatch.setattr(wheels, "run", auditwheel)
    with pytest.raises(SystemExit, match=r"would bring libraries along: d2kernels\.libs/libgomp-1\.so"):
        wheels.repaired(tmp_path / "raw.whl", tmp_path)


def test_what_is_tried_sees_no_compiler(monkeypatch, tmp_path):
    fresh = load("fresh", monkeypatch)
    env = object.__new__(fresh.Environment)
    env.folder, env.bin, env.python = tmp_path, tmp_path, Path(sys.executable)
    code = "import os, shutil; print(shutil.which('cc'), shutil.which('g++'), os.environ.get('PYTHONPATH'))"
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert env.run("-c", code).split() == ["None", "None", "None"]
    with pytest.raises(fresh.Failed, match="exit status 3"):
        env.run("-c", "raise SystemExit(3)")
    (tmp_path / "g++").touch()
    with pytest.raises(SystemExit, match=r"holds g\+\+"):
        env.run("-c", "")
