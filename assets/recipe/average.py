"""Mean of the weights of several snapshots of one network: python average.py OUT.torch SNAPSHOT SNAPSHOT …

The batch-norm statistics must then be estimated anew: one step of script 1 with LR_MAX=1e-9 LR_MIN=0
MAX_STEPS=1 BN_REESTIMATE_BATCHES=20 does so.
"""

import argparse
from pathlib import Path

from ov_piano.errors import InputError
from ov_piano.model.snapshot import read_snapshot, save_atomically


def read_all(paths: list[Path]) -> list[dict]:
    """:raises InputError: not snapshots, or not all of one network"""
    states = [read_snapshot(path) for path in paths]
    shapes = [{name: tensor.shape for name, tensor in state.items()} for state in states]
    for path, found in zip(paths, shapes, strict=True):
        if found != shapes[0]:
            raise InputError(f"{path}: expected weights of the same network as {paths[0]}")
    return states


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("snapshots", nargs="+", type=Path)
    args = parser.parse_args()
    try:
        states = read_all(args.snapshots)
    except InputError as error:
        parser.error(str(error))
    mean = {
        name: sum(state[name].double() for state in states).div(len(states)).to(tensor.dtype)
        for name, tensor in states[0].items()
        if tensor.is_floating_point()
    }
    save_atomically(states[0] | mean, args.out)


if __name__ == "__main__":
    main()
