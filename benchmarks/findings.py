"""Trains small models that differ in one thing alone, several seeds each, and draws what comes of it.

    python -m benchmarks.findings sorta_grad            # SortaGrad on and off, three seeds, on spoken digits
    python -m benchmarks.findings --list

Every run is `run_ctc.py` with a recipe; its curve and its results stay in `runs/findings/FINDING/VARIANT-SEED`, so that what
was interrupted goes on, and the picture and the table beside them can be drawn again without training.
"""

import argparse
import json
import os
import queue
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from tqdm.auto import tqdm


matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402


# As many runs at a time as there are cores, each on its own: a small model gains little from a second one.
ON_ONE_CORE = (
    "import os, sys; os.sched_setaffinity(0, {int(sys.argv[1])}); os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
)


@dataclass
class Finding:
    """What is varied, and what the paper found.

    Args:
        paper: its figures, in a sentence.
        recipe: of all the runs.
        settings: fields of the recipe that are others here, mostly to make it small.
        variants: name -> the fields that are varied.
    """

    paper: str
    recipe: str
    settings: dict
    variants: dict[str, dict]


FINDINGS = {
    "sorta_grad": Finding(
        "9 layers (7 recurrent), dev WER: 11.96 % without, 10.83 % with SortaGrad; with BatchNorm 9.78 and 9.52 %.",
        "recipes/digits.yaml",
        {"num_epochs": 8},
        {"off": {"sorta_grad": False}, "on": {"sorta_grad": True}},
    ),
}


def train(finding: Finding, variant: str, seed: int, output: Path, cores: "queue.Queue[int]") -> None:
    """One run on one core, unless its results are there already; an interrupted one goes on."""
    if (output / "results.json").exists():
        return
    settings = finding.settings | finding.variants[variant] | {"seed": seed, "output_dir": output}
    arguments = [f"--{name}={value}" for name, value in settings.items()]
    if any((output / "checkpoints").glob("step-*")):
        arguments.append("--resume")
    environment = os.environ | {"ACCELERATE_USE_CPU": "true"}
    output.mkdir(parents=True, exist_ok=True)
    core = cores.get()
    command = [sys.executable, "-c", ON_ONE_CORE, str(core), "run_ctc.py", finding.recipe, *arguments]
    with (output / "log.txt").open("a") as log:
        done = subprocess.run(command, stdout=log, stderr=log, env=environment)
    cores.put(core)
    if done.returncode:
        raise SystemExit(f"A run failed; {output / 'log.txt'} says why.")


def read(output: Path) -> tuple[list[dict], dict]:
    return json.loads((output / "history.json").read_text()), json.loads((output / "results.json").read_text())


def draw(name: str, finding: Finding, runs: dict[str, list[tuple[list[dict], dict]]], file: Path) -> None:
    """Training loss and validation error over the steps, a thin line for each seed and a thick one for their median."""
    figure, axes = plt.subplots(1, 2, figsize=(11, 4))
    for axis, (key, label, scale) in zip(
        axes, (("loss", "training loss a character", 1), ("cer", "validation CER, %", 100))
    ):
        for color, (variant, of_seeds) in zip(plt.rcParams["axes.prop_cycle"].by_key()["color"], runs.items()):
            curves = [{row["step"]: scale * row[key] for row in history if key in row} for history, _ in of_seeds]
            for curve in curves:
                axis.plot(curve.keys(), curve.values(), color=color, alpha=0.3, lw=1)
            steps = [step for step in curves[0] if all(step in curve for curve in curves)]
            medians = [statistics.median(curve[step] for curve in curves) for step in steps]
            axis.plot(steps, medians, color=color, lw=2, label=f"{name} {variant}")
        axis.set(xlabel="step", ylabel=label, ylim=(0, None))
        axis.legend()
    figure.suptitle(f"{name}: {finding.recipe}, {len(of_seeds)} seeds")
    figure.tight_layout()
    figure.savefig(file, dpi=120)
    plt.close(figure)


def table(runs: dict[str, list[tuple[list[dict], dict]]]) -> str:
    """Error rates on every test split: the mean over seeds, and their standard deviation."""
    splits = next(iter(runs.values()))[0][1].keys()
    lines = ["| variant | split | seeds | WER | CER |", "| --- | --- | ---: | ---: | ---: |"]
    for variant, of_seeds in runs.items():
        for split in splits:
            cells = []
            for metric in ("wer", "cer"):
                values = [100 * results[split][metric] for _, results in of_seeds]
                spread = statistics.stdev(values) if len(values) > 1 else 0.0
                cells.append(f"{statistics.mean(values):.2f} ± {spread:.2f} %")
            lines.append(f"| {variant} | {split} | {len(of_seeds)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("finding", nargs="*", choices=[*FINDINGS, []], help="all, unless some are named")
    parser.add_argument("--list", action="store_true", help="say what there is, and what the paper found")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=Path("runs/findings"))
    arguments = parser.parse_args()
    for name in arguments.finding or FINDINGS:
        finding = FINDINGS[name]
        print(f"{name}. The paper: {finding.paper}")
        if arguments.list:
            continue
        folders = {
            variant: [arguments.output / name / f"{variant}-{seed}" for seed in range(arguments.seeds)]
            for variant in finding.variants
        }
        cores: queue.Queue[int] = queue.Queue()
        for core in os.sched_getaffinity(0):
            cores.put(core)
        with ThreadPoolExecutor(cores.qsize()) as runs_at_a_time:
            tasks = [
                runs_at_a_time.submit(train, finding, variant, seed, folders[variant][seed], cores)
                for seed in range(arguments.seeds)
                for variant in finding.variants
            ]
            for task in tqdm(as_completed(tasks), name, len(tasks), unit=" runs"):
                task.result()
        runs = {variant: [read(folder) for folder in of_seeds] for variant, of_seeds in folders.items()}
        draw(name, finding, runs, arguments.output / f"{name}.png")
        print(table(runs))
        print(f"Curves: {arguments.output / f'{name}.png'}")


if __name__ == "__main__":
    main()
