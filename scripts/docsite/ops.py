"""An op's page: docs/ops/<op>.md, then what the code says of it, so that neither lags behind the other."""

from __future__ import annotations

import inspect
from pathlib import Path

from docsite.gpu import standings
from docsite.markup import docstring, signature, table
from docsite.measured import draw, machine, measured
from docsite.nav import ROOT, sources, title_of

TOGETHER = {"svdvals": "svd", "soft_nms": "nms", "dilation": "erosion"}  # functions that stand on another's page
SECTIONS = ("Equation", "Cost", "Gradient", "Example")  # that each page by hand has


def functions() -> dict[str, str]:
    """Every public op to the name of its page."""
    from d2kernels import _PUBLIC

    return {name: TOGETHER.get(name, name) for name, module in _PUBLIC.items() if module.startswith("d2kernels.ops.")}


def folder(page: str) -> str:
    """The op's folder under d2kernels/ops."""
    from d2kernels import _PUBLIC

    return _PUBLIC[page].rpartition(".")[2]


def backends(page: str) -> str:
    """Which backends an op has for which device, and what has run those for a GPU."""
    op, known = folder(page), standings()
    has = {b: (ROOT / f"d2kernels/ops/{op}/{b}.py").exists() for b in ("reference", "native", "triton")}
    rows = [["`reference`", "any", "plain PyTorch"]]
    if has["native"]:
        rows.append(["`native`", "CPU", f"compiled, `csrc/include/d2kernels/{op}.h`"])
    for backend, words in (("triton", "Triton"), ("native", "CUDA")):
        if has[backend] and f"{op}/{backend}" in known:
            name = f"{op}/{backend}"
            rows.append([f"`{backend}`", "NVIDIA GPU", f"{words}; {known[name].says(name)}"])
    return table(["backend", "device", "what it is, and for a GPU what has run it"], rows)


def page(name: str, text: str, pictures: Path | None = None) -> str:
    """The page of one op: what is written by hand, and signature, arguments, backends and measurements."""
    import d2kernels as d2k

    out = [text.rstrip(), "", "## Signature and arguments", ""]
    for function in (f for f, p in functions().items() if p == name):
        value = getattr(d2k, function)
        out += ["```text", signature(f"d2k.{function}", value), "```", "", docstring(inspect.getdoc(value) or ""), ""]
    out += ["## Backends", "", backends(name), "## Measured", ""]
    names = [f for f, p in functions().items() if p == name]
    found = {f: m for f in names if (m := measured(f)) is not None}
    if not found:
        out.append(f"The committed report has no row of it; `make bench ARGS='-k {name}'` measures it.")
        return "\n".join([*out, ""])
    out += [f"{machine()} [Performance](../performance.md) says how.", ""]
    for function, rows in found.items():
        if pictures is not None and rows.ratios:
            (pictures / "pictures").mkdir(exist_ok=True)
            draw(function, rows.ratios, pictures / f"pictures/{function}.svg")
        if rows.ratios:
            out += [f"![Bars: each peer's time over {function}'s](../pictures/{function}.svg)", ""]
        out += [rows.table, ""]
    return "\n".join(out)


def overview() -> str:
    """Every op in a line."""
    import d2kernels as d2k

    text = "# Operations\n\n`import d2kernels as d2k`. Each op on rows takes a `Ragged`, packed rows with `offsets=` "
    text += "(and `lengths=`), or a dense batch with `lengths=` or `mask=`, and gives its result in the same form; a "
    text += "sequence's result never depends on its neighbours or its padding. [`d2kernels.nn`](api.md#d2kernelsnn) "
    text += "has some as modules, [In your own trainer](trainer.md) puts them into other people's models.\n\n"
    rows = []
    for function, name in functions().items():
        said = (inspect.getdoc(getattr(d2k, function)) or "").splitlines()[0]
        rows.append([f"[`{function}`](ops/{name}.md)", said])
    return text + table(["op", "what it computes"], rows)


def by_hand() -> dict[str, str]:
    """Page name, ops/<op>, to the text of docs/ops/<op>.md; every public op has one.

    Raises:
        SystemExit: an op has no page, or a page lacks one of SECTIONS.
    """
    found = {n: p.read_text(encoding="utf-8") for n, p in sources().items() if n.startswith("ops/")}
    for name in dict.fromkeys(functions().values()):
        if f"ops/{name}" not in found:
            raise SystemExit(f"docs: the op {name} has no page; write docs/ops/{name}.md with {', '.join(SECTIONS)}")
    for name, text in found.items():
        if missing := [s for s in SECTIONS if f"\n## {s}\n" not in text]:
            raise SystemExit(f"docs: docs/{name}.md ({title_of(text)}) lacks the sections {', '.join(missing)}")
    return found
