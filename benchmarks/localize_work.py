"""Instructions of the block's localize on one CPU thread, for 210 videos as in bench_localize.py.

python benchmarks/localize_work.py     needs g++ and valgrind; half a minute
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import workloads as shapes
from peers import localize as by

ROOT = Path(__file__).resolve().parents[1]
VIDEOS = 210
MAIN = """
#include <cstdio>
#include <cstdlib>
#include <vector>
#include "d2kernels/localize.h"
using namespace d2k;
template <class T>
std::vector<T> read(const char* name) {
    std::FILE* file = std::fopen(name, "rb");
    std::fseek(file, 0, SEEK_END);
    std::vector<T> values(std::ftell(file) / sizeof(T));
    std::rewind(file);
    if (std::fread(values.data(), sizeof(T), values.size(), file) != values.size()) std::exit(1);
    return values;
}
int main(int count, char** given) {
    const auto lengths = read<int64_t>(given[1]);
    const auto activations = read<float>(given[2]);
    const auto thresholds = read<double>(given[3]);
    std::vector<int64_t> offsets{0};
    for (const int64_t s : lengths) offsets.push_back(offsets.back() + s);
    const int64_t n = lengths.size(), total = offsets.back(), classes = activations.size() / total;
    Localization<float> problem{};
    problem.sequences = {offsets.data(), lengths.data(), n, total};
    problem.activations = activations.data();
    problem.row_stride = problem.classes = classes;
    problem.class_stride = 1;
    problem.thresholds = thresholds.data();
    problem.levels = thresholds.size();
    problem.rules = RULES;
    std::vector<int64_t> counts(n), sequence(total * classes), label(sequence);
    std::vector<double> start(total * classes), end(start), score(start);
    if (count > 4) return 0;  // what reading costs
    return cpu::localize_as_block(problem, counts.data(), int64_t(score.size()),
                                  {sequence.data(), label.data(), start.data(), end.data(), score.data()});
}
"""
RULES = (
    f"{{0.25, false, true, {by.MIN_SCORE}, {by.MIN_LENGTH}, {by.IOU}, true, 0, true, {by.KEEP}, true, 1, 1,"
    " Relative::kNone}"
)


def instructions(*command: str) -> int:
    said = subprocess.run(
        ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *command],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(re.findall(r"Collected : (\d+)", said.stderr)[-1])


def main() -> int:
    for tool in ("g++", "valgrind"):
        if not shutil.which(tool):
            print(f"localize_work: no {tool} on PATH", file=sys.stderr)
            return 77
    work = shapes.Workload("THUMOS14 test", tuple(shapes.thumos_lengths(VIDEOS)))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arrays = (
            np.asarray(work.lengths, np.int64),
            shapes.smooth_activations(work.total, work.classes).numpy().astype(np.float32),
            np.asarray(by.SETTINGS["thresholds"], np.float64),
        )
        files = [folder / str(i) for i in range(len(arrays))]
        for file, array in zip(files, arrays, strict=True):
            array.tofile(file)
        source, program = folder / "main.cpp", folder / "main"
        source.write_text(MAIN.replace("RULES", RULES))
        block = ROOT / "csrc/cpu/localize_as_block.cpp"
        flags = ["-std=c++17", "-O2", f"-I{ROOT / 'csrc/include'}"]
        command = ["g++", *flags, str(source), str(block), "-o", str(program)]
        subprocess.run(command, check=True)
        given = [str(program), *map(str, files)]
        count = instructions(*given) - instructions(*given, "nothing")
    elements = work.total * work.classes
    print(f"{VIDEOS} videos, {work.total} rows, {work.classes} classes: {count / 1e6:.0f} million instructions")
    print(f"{count / elements:.0f} a row and class")
    return 0


if __name__ == "__main__":
    sys.exit(main())
