"""Join several MAESTRO v3 trees into one tree of links, in random order.

    python join.py OUT KEY=TREE KEY=TREE … [--hold-out NAME]

File names are prefixed with their tree's KEY. With --hold-out NAME, recordings whose name contains NAME become the
validation split of their tree, and its other validation recordings join the train split.
"""

import argparse
import csv
import os
import random
from pathlib import Path

from render import CSV_NAME


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("trees", nargs="+", metavar="KEY=TREE")
    parser.add_argument("--hold-out")
    args = parser.parse_args()
    joined = []
    for key, tree in (text.split("=", 1) for text in args.trees):
        root = Path(tree).resolve()
        with open(root / CSV_NAME, newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
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
    with open(args.out / CSV_NAME, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, joined[0].keys())
        writer.writeheader()
        writer.writerows(joined)
    for split in ("train", "validation", "test"):
        hours = [float(row["duration"]) / 3600 for row in joined if row["split"] == split]
        print(f"{split}: {len(hours)} recordings, {sum(hours):.2f} h")


if __name__ == "__main__":
    main()
