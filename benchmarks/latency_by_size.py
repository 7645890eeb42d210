"""Latency against catalogue size: `python benchmarks/latency_by_size.py [--items 10000 100000] [--plot FILE.svg]`.

A bundle of each size is made from the trained one (see scaled_bundle.py; kept in `--work`, about 9 GB for a million
items) and served by one worker under load (see service_load.py).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

from recsys import ShelftalkError
from service_load import measure, table

mpl.use("Agg")
from matplotlib import pyplot as plt

EVENTS = 1_000_000


def scaled_bundle(source: Path, items: int, work: Path) -> Path:
    """The folder of the bundle of that size, made now unless it is there. A process of its own: it takes gigabytes."""
    out = work / str(items)
    if not (out / "CURRENT").exists():
        program = Path(__file__).with_name("scaled_bundle.py")
        command = [sys.executable, str(program), "--bundle", str(source), "--out", str(out), "--items", str(items)]
        subprocess.run([*command, "--events", str(EVENTS)], check=True)
    return out


def plot(found: list[dict[str, Any]], path: Path) -> None:
    """p50 and p99 at the fixed rate over the catalogue's size, both axes logarithmic."""
    figure, axes = plt.subplots(figsize=(6, 3.6))
    sizes = [each["items"] for each in found]
    for key in ("p50", "p99"):
        axes.plot(sizes, [each["rows"][0][key] for each in found], marker="o", label=key)
    axes.set(xscale="log", yscale="log", xlabel="items in the catalogue", ylabel="ms for a list of 10 over HTTP")
    axes.set_title(found[0]["rows"][0]["case"] + ", one worker", fontsize=10)
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("bundles"), help="the trained bundle (default: bundles)")
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--rate", type=float, default=30.0, help="requests a second")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--work", type=Path, default=Path("var/bench"))
    parser.add_argument("--json", type=Path, help="write the figures here too")
    parser.add_argument("--plot", type=Path, help="draw latency against size into this SVG or PNG file")
    arguments = parser.parse_args()
    found = []
    try:
        for items in sorted(arguments.items):
            bundle = scaled_bundle(arguments.bundle, items, arguments.work)
            found.append(measure(bundle, arguments.rate, arguments.seconds))
            print(table(found[-1]) + "\n", flush=True)
    except (ShelftalkError, subprocess.CalledProcessError) as error:
        sys.exit(f"latency_by_size: {error}")
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        plot(found, arguments.plot)


if __name__ == "__main__":
    main()
