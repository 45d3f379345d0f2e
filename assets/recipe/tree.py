"""The CSV file of a MAESTRO v3 tree."""

import csv
from pathlib import Path

CSV_NAME = "maestro-v3.0.0.csv"


def read_rows(tree: Path) -> list[dict[str, str]]:
    """One dict per recording, by column."""
    with open(tree / CSV_NAME, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_rows(tree: Path, rows: list[dict[str, str]]) -> None:
    """Write the CSV file and print the number and total duration of the recordings by split."""
    with open(tree / CSV_NAME, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    for split in dict.fromkeys(row["split"] for row in rows):
        hours = [float(row["duration"]) / 3600 for row in rows if row["split"] == split]
        print(f"{tree}: {split}: {len(hours)} recordings, {sum(hours):.2f} h")
