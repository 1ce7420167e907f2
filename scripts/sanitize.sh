#!/usr/bin/env bash
# The op tests with the CPU kernels compiled under AddressSanitizer and UBSan. Exit 77 where the compiler lacks them.
set -euo pipefail
cd "$(dirname "$0")/.."

python=${PYTHON:-.venv/bin/python}
command -v g++ >/dev/null || { echo "sanitize: no g++ on PATH"; exit 77; }
asan=$(g++ -print-file-name=libasan.so) ubsan=$(g++ -print-file-name=libubsan.so)
for library in "$asan" "$ubsan"; do
  [[ -e $library ]] || { echo "sanitize: g++ has no $library"; exit 77; }
done

# A copy of the package with this extension in it: the tree's own stays as it is.
folder=build/sanitize
mkdir -p "$folder" && rm -rf "$folder/d2kernels" && cp -r d2kernels "$folder/"
rm -f "$folder"/d2kernels/_C.*
cmake -S . -B "$folder/cmake" -DCMAKE_BUILD_TYPE=None \
  -DPython_EXECUTABLE="$("$python" -c 'import sys; print(sys.executable)')" \
  -Dpybind11_DIR="$("$python" -m pybind11 --cmakedir)" -DCMAKE_LIBRARY_OUTPUT_DIRECTORY="$PWD/$folder/d2kernels" \
  -DCMAKE_CXX_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all -g1 -O1 -Wno-psabi" >/dev/null
cmake --build "$folder/cmake" --parallel "$(nproc)" >/dev/null

tests=("$PWD"/tests/ops/test_native_bad_input.py)
for native in d2kernels/ops/*/native.py; do
  op=$(basename "$(dirname "$native")")
  tests+=("$PWD"/tests/ops/test_"$op"*.py)
done

# A sanitizer wants each path once: fewer examples, and not what torch's compiler makes of an op or asks of its schema.
selection=(--hypothesis-profile sanitize -k "not compil and not opcheck")

# From the copy's folder, since Python looks there first. Python itself never frees everything.
root=$PWD python=$("$python" -c 'import sys; print(sys.executable)')
cd "$folder"
export LD_PRELOAD="$asan $ubsan" ASAN_OPTIONS=detect_leaks=0 PYTHONPATH=$PWD:$root/python
"$python" -c "import d2kernels._C as m; assert m.__file__.startswith('$PWD'), m.__file__"
exec "$python" -m pytest -q -p no:cacheprovider -c "$root/pyproject.toml" --rootdir "$root" "${selection[@]}" "${tests[@]}" "$@"
