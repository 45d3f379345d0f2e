"""Join several MAESTRO v3 trees into one tree of links, in random order.

    python join.py OUT KEY=TREE KEY=TREE … [--hold-out NAME]

File names are prefixed with their tree's KEY. With --hold-out NAME, recordings whose name contains NAME become the
validation split of their tree, and its other validation recordings join the train split.
"""

import argparse
import os
import random
from pathlib import Path

from tree import read_rows, write_rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("trees", nargs="+", metavar="KEY=TREE")
    parser.add_argument("--hold-out")
    args = parser.parse_args()
    joined = []
    for key, tree in (text.split("=", 1) for text in args.trees):
        root = Path(tree).resolve()
        rows = read_rows(root)
        if args.hold_out and any(args.hold_out in row["midi_filename"] for row in rows):
            for row in rows:
                held_out = args.hold_out in row["midi_filename"]
                row["split"] = "validation" if held_out else row["split"].replace("validation", "train")
        for row in rows:
            (args.out / row["year"]).mkdir(parents=True, exist_ok=True)
            for column in ("midi_filename", "audio_filename"):
                link = args.out / row["year"] / f"{key}_{Path(row[column]).name}"
                link.unlink(missing_ok=True)
                os.symlink(root / row[column], link)
                row[column] = f"{row['year']}/{link.name}"
        joined += rows
    random.Random(3).shuffle(joined)
    write_rows(args.out, joined)


if __name__ == "__main__":
    main()
