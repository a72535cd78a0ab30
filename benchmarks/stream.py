"""A whole stream of 12 tasks, published against ours: composed of the parts that episode.py measured before."""

from __future__ import annotations

import argparse
from dataclasses import replace

from composition import Sizes, compared
from measure import read_report, report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=12)
    arguments = parser.parse_args()
    measured = read_report("episode")
    rounds = [{int(k): parts for k, parts in by_count.items()} for by_count in measured["parts"]]
    rows = []
    for epochs, views in ((10, 4), (50, 8)):
        sizes = replace(Sizes(**measured["sizes"]), epochs=epochs, views=views)
        found = compared(rounds, range(1, arguments.tasks + 1), sizes)
        rows.append({"tasks": arguments.tasks, "epochs": epochs, "views": views, **found})
    report("stream", rows, measured_on=measured["machine"])


if __name__ == "__main__":
    main()
