"""Presents the result of `verify` as text and as a single HTML page with its plots. Nothing is measured here."""

import io

import matplotlib
import numpy as np
import pandas
from jinja2 import Environment
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .checks import Verification
from .measurements import roll_off, source_rate
from .shards import is_training


_COLOURS = matplotlib.colormaps["tab10"].colors

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{{ title }}</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1em 0 }
th, td { padding: .25em .7em; text-align: right; border-bottom: 1px solid #ddd }
td:first-child, th:first-child { text-align: left }
.spoils { border-left: 4px solid #c22; } .note { border-left: 4px solid #88a; }
.finding { padding: .3em .8em; margin: .5em 0; background: #fafafa } .examples { color: #666; font-size: 13px }
svg { max-width: 100%; height: auto } figure { margin: 1.5em 0 } figcaption { color: #555 }
</style></head><body>
<h1>{{ title }}</h1>
<p>{{ verdict }} The alphabet has {{ symbols }} symbols; {{ stride }} input frames make an output frame.</p>
<table><tr>{% for name in table.columns %}<th>{{ name }}</th>{% endfor %}</tr>
{% for row in table.itertuples(index=False) %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% for heading, kind, some in groups %}{% if some %}<h2>{{ heading }}</h2>
{% for finding in some %}<div class="finding {{ kind }}"><b>{{ finding.where }}</b> – {{ finding.message }}
<span class="examples">[{{ finding.check }}]{% if finding.examples %}<br>{{ finding.examples | join(" · ") }}{% endif %}
</span></div>
{% endfor %}{% endif %}{% endfor %}
<h2>Plots</h2>
{% for caption, svg in plots %}<figure>{{ svg | safe }}<figcaption>{{ caption }}</figcaption></figure>
{% endfor %}</body></html>
"""


def summary(found: Verification) -> pandas.DataFrame:
    """One row for each split, as text."""
    rows = []
    for split in found.characters:
        some = found.utterances[found.utterances["split"] == split]
        if some.empty:
            continue
        usable = some[some["error"] == ""]
        seconds = usable["seconds"]
        speakers = some["speaker"][some["speaker"] != ""].nunique()
        frequency = roll_off(found.spectra[split], 16_000) if found.spectra[split].any() else 0.0
        rows.append(
            {
                "split": split,
                "utterances": f"{len(some):,}",
                "hours": f"{seconds.sum() / 3600:.2f}",
                "speakers": f"{speakers}{' + unnamed' * bool((some['speaker'] == '').any() and speakers)}"
                if speakers
                else "–",
                "seconds (shortest – median – longest)": (
                    f"{seconds.min():.1f} – {seconds.median():.1f} – {seconds.max():.1f}" if len(usable) else "–"
                ),
                "characters": f"{len(found.characters[split]):,}",
                "characters a second": f"{usable['characters'].sum() / seconds.sum():.1f}" if len(usable) else "–",
                "sampling rate": ", ".join(f"{rate:,}" for rate in sorted(usable["sampling_rate"].unique())),
                "bandwidth": f"{frequency / 1000:.1f} kHz",
                "recorded at": f"{source_rate(frequency):,} Hz" if source_rate(frequency) < 16_000 else "≥ 16,000 Hz",
            }
        )
    return pandas.DataFrame(rows)


def verdict(found: Verification, accepted: frozenset[str] = frozenset()) -> str:
    spoiling = {finding.check for finding in found.findings if finding.spoils} - accepted
    if not spoiling:
        return "Nothing was found that would spoil a result."
    return (
        f"{len(spoiling)} kind{'s' * (len(spoiling) > 1)} of findings would spoil a result: {', '.join(sorted(spoiling))}."
    )


def text_report(found: Verification, accepted: frozenset[str] = frozenset()) -> str:
    """Everything but the plots."""
    lines = [summary(found).to_string(index=False), ""]
    for finding in found.findings:
        mark = "note " if not finding.spoils else "accepted" if finding.check in accepted else "SPOILS"
        lines.append(f"{mark:8s} {finding.where}: {finding.message} [{finding.check}]")
        if finding.examples:
            lines.append(f"{'':9s}{' · '.join(finding.examples)}")
    return "\n".join([*lines, "", verdict(found, accepted)])


def html_report(found: Verification, title: str, accepted: frozenset[str] = frozenset()) -> str:
    """One page that needs no other file."""
    spoiling = [finding for finding in found.findings if finding.spoils and finding.check not in accepted]
    accepting = [finding for finding in found.findings if finding.spoils and finding.check in accepted]
    notes = [finding for finding in found.findings if not finding.spoils]
    return (
        Environment(autoescape=True)
        .from_string(_PAGE)
        .render(
            title=title,
            verdict=verdict(found, accepted),
            symbols=f"{len(found.tokenizer):,}",
            stride=found.time_stride,
            table=summary(found),
            groups=[
                ("What would spoil a result", "spoils", spoiling),
                ("Accepted", "note", accepting),
                ("Good to know", "note", notes),
            ],
            plots=[(caption, _svg(figure)) for caption, figure in plots(found)],
        )
    )


def _svg(figure: Figure) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", metadata={"Date": None})
    return file.getvalue().partition("<svg")[1] + file.getvalue().partition("<svg")[2]


def plots(found: Verification) -> list[tuple[str, Figure]]:
    """Captions and figures."""
    usable = found.utterances[found.utterances["error"] == ""]
    usable = usable[usable["seconds"] > 0]
    figures = [
        ("Durations. Training in full lines, other splits dashed, here and below.", _durations(found, usable)),
        ("Characters a second: pairs far from the others are probably wrong.", _rates(found, usable)),
        ("Labels, with the blanks that CTC needs, for each output frame: beyond 1 nothing fits.", _fit(found, usable)),
        (
            "Mean spectrum after a first difference, 0 dB at its highest; dots where 99.9 % of the energy lies below.",
            _spectra(found),
        ),
        ("The same limit of each utterance by itself.", _bandwidths(found, usable)),
        ("Silence at the start and at the end, and the highest sample of each utterance.", _levels(found, usable)),
        ("Utterances of each speaker, the busiest first.", _speakers(found)),
    ]
    return [(caption, figure) for caption, figure in figures if figure is not None]


def _lines(found: Verification, axes: Axes, usable: pandas.DataFrame, values: pandas.Series, edges: np.ndarray) -> None:
    """A histogram for each split, as shares of its utterances."""
    for split, style in _styles(found).items():
        some = values[usable["split"] == split].clip(edges[0], edges[-1])
        if len(some):
            counts, _ = np.histogram(some, edges)
            axes.stairs(100 * counts / len(some), edges, label=split, **style)
    axes.set_ylabel("% of the utterances")
    axes.grid(alpha=0.3)


def _styles(found: Verification) -> dict[str, dict]:
    """One colour for each configuration, one line style for each part."""
    names = list(dict.fromkeys(split.rpartition("/")[0] for split in found.characters))
    return {
        split: {
            "color": _COLOURS[names.index(split.rpartition("/")[0]) % len(_COLOURS)],
            "linestyle": "-" if is_training(split) else ":" if "test" in split else "--",
        }
        for split in found.characters
    }


def _axes(columns: int = 1, height: float = 3.6) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(10.5, height), layout="constrained")  # not pyplot, which would change the backend of the user
    axes = figure.subplots(1, columns, squeeze=False)
    return figure, axes[0].tolist()


def _legend(axes: Axes) -> None:
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1.0))


def _durations(found: Verification, usable: pandas.DataFrame) -> Figure:
    figure, (axes,) = _axes()
    longest = max(1.0, float(usable["seconds"].quantile(0.999)))
    _lines(found, axes, usable, usable["seconds"], np.linspace(0, longest, 60))
    axes.set_xlabel("seconds")
    _legend(axes)
    return figure


def _rates(found: Verification, usable: pandas.DataFrame) -> Figure:
    figure, (axes,) = _axes()
    rates = usable["characters"] / usable["seconds"]
    _lines(found, axes, usable, rates, np.linspace(0, max(1.0, 1.2 * float(rates.quantile(0.999))), 60))
    axes.set_xlabel("characters a second")
    _legend(axes)
    return figure


def _fit(found: Verification, usable: pandas.DataFrame) -> Figure:
    figure, (axes,) = _axes()
    _lines(found, axes, usable, usable["needed"] / usable["available"].clip(lower=1), np.linspace(0, 1.5, 76))
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xlabel(f"labels for each output frame at stride {found.time_stride}")
    _legend(axes)
    return figure


def _spectra(found: Verification) -> Figure:
    figure, (axes,) = _axes(height=4.2)
    for split, style in _styles(found).items():
        spectrum = found.spectra[split]
        if not spectrum.any():
            continue
        kilohertz = np.linspace(0, 8, len(spectrum))
        decibels = 10 * np.log10(spectrum / spectrum.max() + 1e-12)
        axes.plot(kilohertz, decibels, label=split, linewidth=1, **style)
        limit = roll_off(spectrum, 16_000) / 1000
        axes.plot(limit, np.interp(limit, kilohertz, decibels), "o", color=style["color"], markersize=5)
    for rate in (4.0, 5.5125):
        axes.axvline(rate, color="black", linewidth=0.6, linestyle="--")
    axes.set(xlabel="kHz", ylabel="dB", ylim=(-80, 3), xlim=(0, 8))
    axes.grid(alpha=0.3)
    _legend(axes)
    return figure


def _bandwidths(found: Verification, usable: pandas.DataFrame) -> Figure:
    figure, (axes,) = _axes()
    _lines(found, axes, usable, usable["roll_off"] / 1000, np.linspace(0, 8, 81))
    axes.set_xlabel("kHz")
    _legend(axes)
    return figure


def _levels(found: Verification, usable: pandas.DataFrame) -> Figure:
    figure, axes = _axes(3)
    for place, (column, label) in enumerate((("leading", "silence at the start, s"), ("trailing", "silence at the end, s"))):
        _lines(found, axes[place], usable, usable[column], np.linspace(0, 2, 41))
        axes[place].set_xlabel(label)
    _lines(found, axes[2], usable, 20 * np.log10(usable["peak"].clip(lower=1e-4)), np.linspace(-50, 3, 54))
    axes[2].set_xlabel("highest sample, dB of full scale")
    _legend(axes[2])
    return figure


def _speakers(found: Verification) -> Figure | None:
    named = found.utterances[found.utterances["speaker"] != ""]
    if named.empty:
        return None
    figure, (axes,) = _axes()
    for split, style in _styles(found).items():
        counts = named["speaker"][named["split"] == split].value_counts().to_numpy()
        if len(counts):
            axes.plot(np.arange(1, len(counts) + 1), counts, marker=".", markersize=4, linewidth=1, label=split, **style)
    axes.set(xscale="log", yscale="log", xlabel="speaker, by rank", ylabel="utterances")
    axes.grid(alpha=0.3)
    _legend(axes)
    return figure
