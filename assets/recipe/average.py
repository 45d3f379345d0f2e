"""Mean of the weights of several snapshots of one network: python average.py OUT.torch SNAPSHOT SNAPSHOT …

The batch-norm statistics must then be estimated anew: one step of script 1 with LR_MAX=1e-9 LR_MIN=0
MAX_STEPS=1 BN_REESTIMATE_BATCHES=20 does so.
"""

import argparse
from pathlib import Path

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("snapshots", nargs="+", type=Path)
    args = parser.parse_args()
    states = [torch.load(path, weights_only=True) for path in args.snapshots]
    mean = {
        name: sum(state[name].double() for state in states).div(len(states)).to(tensor.dtype)
        for name, tensor in states[0].items()
        if tensor.is_floating_point()
    }
    torch.save(states[0] | mean, args.out)


if __name__ == "__main__":
    main()
