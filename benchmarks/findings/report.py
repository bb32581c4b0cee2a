"""Writes docs/findings.md and its pictures from the log of the small trainings alone, so that they can be regenerated."""

import math
import statistics
from pathlib import Path

import matplotlib


matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import MaxNLocator  # noqa: E402

from .runs import missing  # noqa: E402
from .variants import BY_CHARACTER, FINDINGS, SEEDS, Claim, Finding  # noqa: E402


# A difference of two means that is so many standard errors large is taken for one.
STANDARD_ERRORS = 2.0
NOTHING_LEARNED = 90.0  # percent; the characters of a run that diverged, or that never left its first plateau
VERDICTS = ("holds", "not decided", "does not hold")

_HEADING = """# The paper's findings, repeated at small scale

Small trainings that differ in one thing, on the bundled synthetic voices: `recipes/findings.yaml` (51 minutes of speech, 3
× GRU-64 and 5 epochs unless said otherwise), each on one core, {seconds:.0f} s on average. `python -m benchmarks.findings`
trains the runs missing from `benchmarks/findings/runs.jsonl` ({runs} done, {left} planned) and writes this page;
`--draw` writes it without training. Unless a language model is named, errors are those of the best path on the 160 test
clips of four voices that training never heard (Mandarin: 160 of two), means over the seeds with their standard deviations.
"Holds" and "does not hold" mean that the means differ by more than {errors:g} standard errors; all else is not decided here.
The paper's models have 35 to 100 million parameters and up to 12,000 hours of speech, so that only the direction of an
effect can be compared, never its size. And five epochs are few (the demo, a network twice as wide in 16, comes to a tenth of
these errors on the same clips): what learns fast looks better here than what would win in the end. Sections that say so
were trained for 20.
"""


def write_report(runs: dict[str, dict], folder: Path) -> str:
    """Writes findings.md and a picture for each finding that has runs; gives the text."""
    seconds = [run["seconds"] for run in runs.values()]
    left = len(missing(list(FINDINGS), SEEDS, runs))
    heading = _HEADING.format(seconds=statistics.mean(seconds or [0]), runs=len(runs), left=left, errors=STANDARD_ERRORS)
    (folder / "findings").mkdir(parents=True, exist_ok=True)
    found = {name: _runs_of(finding, runs) for name, finding in FINDINGS.items()}
    found = {name: of_variants for name, of_variants in found.items() if of_variants}
    sections = []
    for name, of_variants in found.items():
        draw(FINDINGS[name], of_variants, folder / "findings" / f"{name}.svg")
        sections.append(_section(name, FINDINGS[name], of_variants))
    text = "\n".join([heading, _summary(found), *sections])
    (folder / "findings.md").write_text(text, encoding="utf-8")
    return text


def _runs_of(finding: Finding, runs: dict[str, dict]) -> dict[str, list[dict]]:
    """Of each variant the runs that measured all that the finding needs."""
    found = {}
    for variant, settings in finding.variants.items():
        own = [run for run in runs.values() if run["settings"] == settings]
        own = [run for run in own if set(finding.measured) <= run["results"].keys()]
        if own:
            found[variant] = sorted(own, key=lambda run: run["seed"])
    return found


def _errors(runs: list[dict], test: str, metric: str = "wer") -> list[float]:
    """In percent; of Mandarin always by the character."""
    return [100 * run["results"][test]["cer" if test in BY_CHARACTER else metric] for run in runs]


def _section(name: str, finding: Finding, runs: dict[str, list[dict]]) -> str:
    lines = [f"## {finding.title}\n", f"{finding.varied}\n"]
    metrics = {test: ("cer",) if test in BY_CHARACTER else ("wer", "cer") for test in finding.measured}
    columns = [f"{metric.upper()}, {test}" for test in finding.measured for metric in metrics[test]]
    lines += [f"| | parameters | seeds | {' | '.join(columns)} |", "| --- |" + " ---: |" * (2 + len(columns))]
    for variant, own in runs.items():
        cells = [_mean_and_deviation(_errors(own, test, metric)) for test in finding.measured for metric in metrics[test]]
        lines.append(f"| {variant} | {own[0]['parameters']:,} | {len(own)} | {' | '.join(cells)} |")
    lines += ["", f"![{finding.title}](findings/{name}.svg)\n", f"The paper: {finding.paper}\n", "Here:\n"]
    for claim in _claims(finding, runs):
        said, figures = verdict(claim, runs)
        lines.append(f"- {claim.sentence}: {said if said == VERDICTS[1] else f'**{said}**'} ({figures}).")
    failed = {
        variant: sum(error >= NOTHING_LEARNED for error in _errors(own, finding.measured[0], "cer"))
        for variant, own in runs.items()
    }
    if any(failed.values()):
        counts = "; ".join(f"{variant} {failed[variant]} of {len(own)}" for variant, own in runs.items())
        lines.append(f"- runs that learned next to nothing (CER of {NOTHING_LEARNED:.0f} % or more): {counts}.")
    if finding.axis and len(runs) > 2:
        factor, exponent, fit = power_law(finding, runs)
        lines.append(
            f"- a power law: error = {factor:.3g} % · ({finding.axis})^−{exponent:.2f}, R² {fit:.2f} of the "
            f"logarithms: {1 - 10**-exponent:.0%} less error for ten times as much."
        )
    return "\n".join(lines) + "\n"


def _summary(found: dict[str, dict[str, list[dict]]]) -> str:
    """A line for each finding: which of its trends hold."""
    lines = [f"| | {' | '.join(VERDICTS)} |", "| --- |" + " --- |" * len(VERDICTS)]
    for name, runs in found.items():
        said: dict[str, list[str]] = {one: [] for one in VERDICTS}
        for claim in _claims(FINDINGS[name], runs):
            said[verdict(claim, runs)[0]].append(claim.sentence)
        lines.append(f"| {FINDINGS[name].title} | {' | '.join('; '.join(claims) for claims in said.values())} |")
    return "\n".join(lines) + "\n"


def _claims(finding: Finding, runs: dict[str, list[dict]]) -> list[Claim]:
    """Those whose variants have runs."""
    return [claim for claim in finding.claims if claim.better in runs and claim.worse in runs]


def _mean_and_deviation(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{deviation} %"


def verdict(claim: Claim, runs: dict[str, list[dict]]) -> tuple[str, str]:
    """One of `VERDICTS`, and the figures that it rests on."""
    better, worse = _errors(runs[claim.better], claim.better_on), _errors(runs[claim.worse], claim.worse_on)
    means = f"{statistics.mean(better):.1f} against {statistics.mean(worse):.1f} %"
    if min(len(better), len(worse)) < 2:
        return VERDICTS[1], f"{means}, one seed"
    gain = statistics.mean(worse) - statistics.mean(better)
    error = math.sqrt(statistics.variance(better) / len(better) + statistics.variance(worse) / len(worse))
    place = 0 if gain > STANDARD_ERRORS * error else 2 if -gain > STANDARD_ERRORS * error else 1
    return VERDICTS[place], f"{means}, standard error of the difference {error:.1f}"


def _scale(finding: Finding, runs: dict[str, list[dict]]) -> list[float]:
    return [finding.scale.get(variant, own[0]["parameters"]) for variant, own in runs.items()]


def power_law(finding: Finding, runs: dict[str, list[dict]]) -> tuple[float, float, float]:
    """error = factor · x^−exponent by least squares of the logarithms of all runs -> factor, exponent, R²."""
    x = np.repeat(np.log(_scale(finding, runs)), [len(own) for own in runs.values()])
    y = np.log([error for own in runs.values() for error in _errors(own, finding.measured[0])])
    slope, start = np.polyfit(x, y, 1)
    fit = 1 - np.square(y - start - slope * x).sum() / np.square(y - y.mean()).sum()
    return float(np.exp(start)), float(-slope), float(fit)


def draw(finding: Finding, runs: dict[str, list[dict]], file: Path) -> None:
    """A dot for each seed, a bar for their mean, and an error bar of one standard deviation."""
    with matplotlib.rc_context({"svg.hashsalt": finding.title, "svg.fonttype": "none"}):
        figure, axes = plt.subplots(
            figsize=(7, 1.2 + 0.35 * len(runs)) if not finding.axis else (7, 4), layout="constrained"
        )
        (_draw_scale if finding.axis else _draw_variants)(finding, runs, axes)
        figure.savefig(file, metadata={"Date": None})
        plt.close(figure)


def _draw_variants(finding: Finding, runs: dict[str, list[dict]], axes: plt.Axes) -> None:
    height = 0.8 / len(finding.measured)
    for place, test in enumerate(finding.measured):
        for row, own in enumerate(runs.values()):
            values, middle = _errors(own, test), row + (place - (len(finding.measured) - 1) / 2) * height
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            style = {"color": f"C{place}", "alpha": 0.5, "label": test if not row else None}
            axes.barh(middle, statistics.mean(values), 0.9 * height, xerr=deviation, ecolor="black", capsize=2, **style)
            axes.plot(values, [middle] * len(values), ".", color="black", markersize=4)
    axes.set_yticks(range(len(runs)), list(runs))
    axes.invert_yaxis()
    axes.set_xlabel("word error rate, %")
    axes.grid(axis="x", alpha=0.3)
    if len(finding.measured) > 1:
        axes.legend(fontsize=8)


def _draw_scale(finding: Finding, runs: dict[str, list[dict]], axes: plt.Axes) -> None:
    test, scale = finding.measured[0], _scale(finding, runs)
    for x, own in zip(scale, runs.values()):
        axes.plot([x] * len(own), _errors(own, test), ".", color="black", markersize=4)
    means = [statistics.mean(_errors(own, test)) for own in runs.values()]
    deviations = [statistics.stdev(_errors(own, test)) if len(own) > 1 else 0.0 for own in runs.values()]
    axes.errorbar(scale, means, deviations, fmt="o", capsize=3)
    if len(runs) > 2:
        factor, exponent, _ = power_law(finding, runs)
        axes.plot(scale, factor * np.power(scale, -exponent), color="C1", label=f"{factor:.3g} · x^−{exponent:.2f}")
        axes.legend()
    rate = "character" if test in BY_CHARACTER else "word"
    axes.set(xscale="log", yscale="log", xlabel=finding.axis, ylabel=f"{rate} error rate, %")
    axes.set_xticks(scale, [f"{x:,.0f}" for x in scale], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(MaxNLocator(5))  # a decade may have no power of ten in it
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
