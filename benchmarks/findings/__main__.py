"""Repeats the paper's findings with small trainings that differ in one setting, with several seeds each.

    python -m benchmarks.findings                       # all that is not in the log yet, then draw
    python -m benchmarks.findings direction --seeds 1   # one of them
    python -m benchmarks.findings --draw                # docs/findings.md and its pictures, from the log alone
    python -m benchmarks.findings --list

Every run is `run_ctc.py recipes/findings.yaml` with a few fields changed, on one core. Its measurements become one line of
runs.jsonl beside this file. A command that was stopped therefore continues where it was, and a run that several findings
need is made only once.
"""

import argparse
import os
import queue
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from tqdm.auto import tqdm

from .report import write_report
from .runs import RunError, append, key, make_language_model, make_noisy, missing, read_log, train
from .variants import FINDINGS, NOISY, SEEDS, WITH_LM


LOG = Path(__file__).with_name("runs.jsonl")
WORK = Path("runs/findings")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("finding", nargs="*", help="all, unless some are named")
    parser.add_argument("--list", action="store_true", help="say what there is, and what the paper found")
    parser.add_argument("--draw", action="store_true", help="train nothing")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="(default %(default)s)")
    parser.add_argument("--log", type=Path, default=LOG, help="(default %(default)s)")
    parser.add_argument("--output", type=Path, default=Path("docs"), help="of the report (default %(default)s)")
    parser.add_argument("--work", type=Path, default=WORK, help="where runs are made (default %(default)s)")
    parser.add_argument("--shorter", nargs="+", default=[], metavar="FIELD=VALUE", help="of the recipe, to try it out")
    settings = parser.parse_args(arguments)
    unknown = sorted(set(settings.finding) - set(FINDINGS))
    if unknown:
        parser.error(f"there is no finding {unknown[0]}; there are {', '.join(FINDINGS)}")
    if settings.shorter and LOG.resolve() == settings.log.resolve():
        parser.error("--shorter makes other runs than those of the log: name another --log, --output and --work")
    names = settings.finding or list(FINDINGS)
    if settings.list:
        for name in names:
            print(f"{name}: {FINDINGS[name].title}. The paper: {FINDINGS[name].paper}")
        return
    runs = read_log(settings.log)
    waiting = [] if settings.draw else missing(names, settings.seeds, runs)
    if any(NOISY in measured for *_, measured in waiting):
        make_noisy(settings.work / "noisy")
    if any(WITH_LM in measured for *_, measured in waiting):
        make_language_model(settings.work / "lm.safetensors")
    cores: queue.Queue[int] = queue.Queue()
    for core in os.sched_getaffinity(0):
        cores.put(core)
    more = [f"--{field}" for field in settings.shorter]
    with ThreadPoolExecutor(cores.qsize()) as pool:
        tasks = [pool.submit(train, *run[:2], more, run[2], settings.work, cores) for run in waiting]
        failures = []
        try:
            for task in tqdm(as_completed(tasks), "runs", len(tasks), unit=" runs", disable=not tasks):
                try:
                    run = task.result()
                except RunError as error:
                    failures.append(str(error))
                    continue
                append(settings.log, run)
                runs[key(run["settings"], run["seed"])] = run
        finally:
            pool.shutdown(cancel_futures=True)
    print(write_report(runs, settings.output))
    if failures:
        raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
