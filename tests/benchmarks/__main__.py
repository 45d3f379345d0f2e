"""`make bench`: run every benchmark, print a table, write ``out/bench.json``.

Names given as arguments select benchmark files: ``python -m tests.benchmarks model scoring``.
"""

import importlib
import json
import os
import platform
import sys
from pathlib import Path

import torch

from ov_piano.cli import BAD_INPUT

FOLDER = Path(__file__).parent
OUTPUT = Path("out/bench.json")


def main(wanted: list[str]) -> None:
    names = sorted(path.stem.removeprefix("bench_") for path in FOLDER.glob("bench_*.py"))
    if unknown := sorted(set(wanted) - set(names)):
        print(f"error: {unknown[0]}: unknown benchmark, expected one of {', '.join(names)}", file=sys.stderr)
        sys.exit(BAD_INPUT)
    names = [name for name in names if not wanted or name in wanted]
    results = json.loads(OUTPUT.read_text()) if wanted and OUTPUT.exists() else {}
    print(f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"{'name':<22} {'ours':>10} {'plain':>10} {'ratio':>8}  unit")
    for name in names:
        for bench, result in importlib.import_module(f"tests.benchmarks.bench_{name}").benchmarks().items():
            ours, plain, ratio = (result[column] for column in ("ours", "plain", "ratio"))
            print(f"{bench:<22} {ours:>10.4g} {plain:>10.4g} {ratio:>8.1f}  {result['unit']}", flush=True)
            results[bench] = result
    OUTPUT.parent.mkdir(exist_ok=True)
    OUTPUT.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
