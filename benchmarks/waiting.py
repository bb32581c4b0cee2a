"""Measures what threads that wait for each other cost beside other programs; run it while the cores are busy.

    python -m benchmarks.waiting

A recurrence of 120 steps, 2 × 256 units, 16 utterances: at every step the threads wait for each other. By default those of
GNU OpenMP, which torch brings along on Linux, wait by trying again and again, and keep from the core the very thread that
they wait for. Each setting is a process of its own, since OpenMP reads its settings once; the settings take turns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch


HIDDEN, UTTERANCES, STEPS, PASSES = 256, 16, 120, 5
SETTINGS: dict[str, tuple[int, dict[str, str]]] = {
    "one thread": (1, {}),
    "two threads": (2, {}),
    "two threads, GOMP_SPINCOUNT=10000": (2, {"GOMP_SPINCOUNT": "10000"}),
    "two threads, GOMP_SPINCOUNT=1000": (2, {"GOMP_SPINCOUNT": "1000"}),
    "two threads, OMP_WAIT_POLICY=PASSIVE": (2, {"OMP_WAIT_POLICY": "PASSIVE"}),
}


def passes(threads: int) -> tuple[float, float]:
    """Seconds of a pass by the clock, and of the processor."""
    torch.set_num_threads(threads)
    inputs, weight = torch.randn(2, UTTERANCES * STEPS, 3 * HIDDEN), torch.randn(2, HIDDEN, 3 * HIDDEN)

    def one() -> None:
        state = torch.zeros(2, UTTERANCES, HIDDEN)
        for step in inputs.split(UTTERANCES, dim=1):
            gates = torch.baddbmm(step, state, weight).sigmoid_()
            state = torch.lerp(gates[..., :HIDDEN], state, gates[..., HIDDEN : 2 * HIDDEN])

    one()
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(PASSES):
        one()
    return (time.perf_counter() - wall) / PASSES, (time.process_time() - cpu) / PASSES


def measure(threads: int, environment: dict[str, str]) -> tuple[float, float]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    command = [sys.executable, "-m", "benchmarks.waiting", "--threads", str(threads)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=kept | environment)
    return json.loads(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads:
        print(json.dumps(passes(arguments.threads)))
        return
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SETTINGS}
    for _ in range(arguments.rounds):
        for name, setting in SETTINGS.items():
            found[name].append(measure(*setting))
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}\n")
    print("| | a pass, ms | processor time, ms |\n| --- | ---: | ---: |")
    for name, times in found.items():
        wall, cpu = (1e3 * statistics.median(values) for values in zip(*times))
        print(f"| {name} | {wall:.0f} | {cpu:.0f} |")


if __name__ == "__main__":
    main()
