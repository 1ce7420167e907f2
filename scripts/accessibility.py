"""Checks pages with axe-core in headless Chromium; exit status 1 where a serious or critical error is found.

python scripts/accessibility.py --axe node_modules/axe-core/axe.min.js PAGE.html ...     (npm install axe-core)

A page is checked as a reader has it once its scripts have run, from a copy beside it that holds axe as well.
"""

from __future__ import annotations

import argparse
import html
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SERIOUS = ("serious", "critical")
CHECK = """
<script>{axe}</script>
<script>
addEventListener("load", () => setTimeout(async () => {{
  const put = text => {{
    const node = document.createElement("pre");
    node.id = "axe-found"; node.textContent = "AXE" + text + "EXA"; document.documentElement.append(node);
  }};
  try {{
    const found = await axe.run(document, {{resultTypes: ["violations"]}});
    const broken = found.violations.map(v => (
      {{id: v.id, impact: v.impact, help: v.help, nodes: v.nodes.map(n => [n.target.join(" "), n.failureSummary])}}));
    put(JSON.stringify({{rules: found.passes.length + found.violations.length, violations: broken}}));
  }} catch (error) {{ put(JSON.stringify({{error: String(error)}})); }}
}}, 500));
</script>
"""


def browser() -> str | None:
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def checked(page: Path, axe: Path, seconds: int = 180) -> dict[str, object]:
    """What axe finds in a page: {"rules": how many applied, "violations": [...]}.

    Raises:
        RuntimeError: Chromium is missing, or axe did not answer.
    """
    program = browser()
    if program is None:
        raise RuntimeError(f"none of {', '.join(BROWSERS)} is on PATH; install Chromium")
    script = axe.read_text(encoding="utf-8").replace("</script", "<\\/script")
    text = page.read_text(encoding="utf-8")
    end = text.rfind("</body>")
    text = text[:end] + CHECK.format(axe=script) + text[end:] if end >= 0 else text + CHECK.format(axe=script)
    with (
        tempfile.NamedTemporaryFile("w", suffix=".html", dir=page.parent, encoding="utf-8") as copy,
        tempfile.TemporaryDirectory() as profile,
    ):
        copy.write(text)
        copy.flush()
        os.chmod(copy.name, 0o644)
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        command += [f"--user-data-dir={profile}", "--window-size=1280,900", "--allow-file-access-from-files"]
        command += ["--virtual-time-budget=60000", f"--timeout={1000 * seconds}", "--dump-dom", f"file://{copy.name}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=2 * seconds)
    answer = re.search(r"AXE(\{.*?\})EXA</pre>", done.stdout, re.DOTALL)
    if answer is None:
        raise RuntimeError(f"{page}: axe did not answer; Chromium said {done.stderr[-500:]!r}")
    found: dict[str, object] = json.loads(html.unescape(answer[1]))
    if "error" in found:
        raise RuntimeError(f"{page}: axe failed: {found['error']}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axe", type=Path, required=True, help="axe.js or axe.min.js of axe-core")
    parser.add_argument("pages", nargs="+", type=Path)
    asked = parser.parse_args()
    failed = False
    for page in asked.pages:
        found = checked(page.resolve(), asked.axe)
        violations = list(found["violations"])  # type: ignore[call-overload]
        bad = [v for v in violations if v["impact"] in SERIOUS]
        failed |= bool(bad)
        print(f"{page}: {found['rules']} rules applied, {len(violations)} broken, {len(bad)} of them serious")
        for violation in violations:
            print(f"  {violation['impact']}: {violation['id']}: {violation['help']}")
            for target, summary in violation["nodes"][:5]:
                print(f"    {target}: {' '.join(summary.split())}")
            if len(violation["nodes"]) > 5:
                print(f"    and {len(violation['nodes']) - 5} more")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
