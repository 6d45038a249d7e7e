"""docs/search.md, written from the rows."""

from __future__ import annotations

import itertools
import statistics
import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.search.cases import ALONE, CASES, FULL, METHODS, OWN, RECONSTRUCTED, SEEDS, Row, Rows
from benchmarks.search.chart import Point, scatter
from benchmarks.search.meet import MOST
from benchmarks.search.tuned import FILE, PUBLISHED
from benchmarks.search.tuned import read as read_tuned

PAGE, CHART = "search.md", "search-scatter.svg"
OURS, THEIRS = "edgeprune", ("tp-taylor", "tp-isomorphic")
NAMES = {
    "edgeprune": "**edgeprune**",
    ALONE: "edgeprune, sensitivity alone",
    "uniform": "uniform width",
    "global": "global magnitude",
    "halp": "HALP (knapsack)",
    "netadapt": "NetAdapt",
    "tp-taylor": "Torch-Pruning, group Taylor",
    "tp-isomorphic": "Torch-Pruning, isomorphic",
    "fastnas": "ModelOpt FastNAS",
}
NAMES |= {name + RECONSTRUCTED: f"{NAMES[name]}, reconstructed" for name in OWN}

COMMANDS = """    python -m benchmarks.search                 # continues where it was; --models, --methods, --budgets, --seeds, --minutes
    python -m benchmarks.search --render"""
RULES = f"""All methods start from the same weights and are brought to the same *measured* latency: TFLite on one thread, in turns with the
    dense model, the ratio's interval kept. edgeprune does it by its own loop; the others have their knob (a ratio, a share of MACs, a
    predicted latency) turned until the measurement lies between {100 * FULL:g} and 100 % of the budget, in at most {MOST} measurements,
    else the nearest below counts. Latency depends on the structure alone, so what the search measured holds for its fine-tuned models.
    Then everybody gets the same: batch-norm statistics measured again ("before"), and the same steps of fine-tuning with the dense model's
    answers ("after"), in up to three seeds (the last column says how many), each another order of the data.
    Accuracy is on held-out data; as that is a small set, the mean Kullback-Leibler divergence
    from the dense model's answers on it is given too: smaller is better, and it tells methods apart that accuracy cannot."""
OTHERS = """Uniform, global magnitude, HALP and NetAdapt are own implementations from the papers (`edgeprune/search/baselines/`), with the
    same device table and the same widths to choose from as edgeprune. Torch-Pruning 1.6.1 and ModelOpt 0.47.0 are run as they are, in
    multiples of 4 channels on the ResNets and 8 elsewhere; Torch-Pruning gets zero-padding shortcuts as equivalent 1 x 1 convolutions,
    without which it breaks these
    ResNets, and FastNAS where the budget is out of its reach without."""
MARGINS = """Accuracy in percent, mean over the seeds; the best other method is another one at each point. A difference of less than about
    1.3 points lies within the standard error of 1,000 images (vit: 961 clips; dscnn: 250 words, 0.8 points). Torch-Pruning breaks the vit,
    and not every method was measured again for mobilenetv2."""
CHOICE = """edgeprune compares the plans of five objectives before it measures any; "sensitivity alone" follows the measured sensitivities
    without comparing. "Reconstructed": the method's widths, with the remaining weights solved again as edgeprune does, so that widths and
    weights are told apart."""
EARLIER = """edgeprune's rows of these points are of a version that followed the measured sensitivities without comparing, and cut in two
    stages at 30 %, with a part of the steps between them; now it compares plans first, and cuts once"""
TRADE = """The last column: where edgeprune's accuracies at its budgets (and the dense model's), joined by lines, reach Torch-Pruning's
    accuracy, and how many times lower that latency is than Torch-Pruning's; ">" where edgeprune is still better at its lowest budget."""
LONGER = """The same found models, fine-tuned ten times as long: whether the order above is one of short fine-tuning alone."""
TUNED = """Runs of `edgeprune prune` with long fine-tuning, beside published results near half the multiply-accumulates. edgeprune's are
    scored on 1,000 test images (batch 50 of the recipe's data) after training on 25,000 images, half of what the published ones had, and
    were measured on the device: the latency is that of the exported TFLite file, in turns with the dense one. Accuracies of different
    networks and test sets do not compare; the loss from the dense network's does."""
EFFORT = """Of one budget's search, conversions and measurements included, on a machine that does other work too; CPU seconds are this
    process's, without the converter and the measured models. A method's first budget also pays for what later ones share (saliency,
    Torch-Pruning's steps, NetAdapt's rounds, FastNAS's sensitivities). edgeprune's measurements include the dense model and the final
    one. The device table is measured once and serves edgeprune and the own baselines."""
PREDICTION = """Every point is a plan whose latency was predicted *before* it was measured, by the device table and the whole models
    measured until then (the dense one alone: rings; pruned ones too: dots), so each is held out. Error: |predicted / measured - 1|."""


@dataclass(frozen=True)
class Cell:
    """A method at a budget: its search's row and those of its seeds; ``search`` may hold an ``error`` and no figures."""

    method: str
    search: Row
    tuned: list[Row]

    def values(self, when: str, what: str) -> list[float]:
        """``what`` of every seed, ``before`` or ``after`` fine-tuning."""
        return [row[when][what] for row in self.tuned]

    def mean(self, when: str, what: str) -> float:
        """Over the seeds."""
        return statistics.fmean(self.values(when, what))

    @property
    def ratio(self) -> float:
        """Measured latency over the dense model's; mean over the seeds."""
        return statistics.fmean(row["ratio"] for row in self.tuned)


@dataclass(frozen=True)
class Model:
    """All rows of a model."""

    name: str
    rows: Rows

    @property
    def setup(self) -> Row:
        """What was measured at first."""
        (row,) = self.rows.of("setup")
        return row

    @property
    def budgets(self) -> list[float]:
        """From wide to narrow."""
        return sorted({row["budget"] for row in self.rows.of("search")}, reverse=True)

    def cell(self, method: str, budget: float) -> Cell | None:
        """None when it was not searched."""
        search = self.rows.get("search", self.name, method, budget)
        tuned = [row for seed in SEEDS if (row := self.rows.get("tuned", self.name, method, budget, seed))]
        return Cell(method, search, tuned) if search else None

    def cells(self, budget: float) -> list[Cell]:
        """Those with fine-tuned rows."""
        return [cell for method in METHODS if (cell := self.cell(method, budget)) and cell.tuned]


def write(results: Path, docs: Path) -> Path:
    """Write the page and its chart; returns the page's path."""
    models = _kept(results)
    docs.mkdir(parents=True, exist_ok=True)
    (docs / CHART).write_text(scatter({model.name: points(model) for model in models}))
    (docs / PAGE).write_text(document(models, _kept(results / "long")))
    return docs / PAGE


def _kept(results: Path) -> list[Model]:
    """The models with fine-tuned rows."""
    models = [Model(name, Rows(results / f"{name}.jsonl")) for name in CASES if (results / f"{name}.jsonl").is_file()]
    return [model for model in models if model.rows.of("setup") and model.rows.of("tuned")]


def document(models: Sequence[Model], long: Sequence[Model] = ()) -> str:
    """The page; ``long``: where the fine-tuning was longer."""
    parts = [_opening(models), _summary(models), _trade(models), _longer(long), _tuned(), _effort(models), _prediction(models)]
    parts += [_details(model) for model in models]
    return "\n".join(part.strip() + "\n" for part in parts if part)


def _opening(models: Sequence[Model]) -> str:
    rows = [row for model in models for kind in ("setup", "search", "tuned") for row in model.rows.of(kind)]
    tuned = [row for model in models for row in model.rows.of("tuned")]
    dates, devices = sorted({row["date"] for row in rows}), sorted({row["device"] for row in rows})
    packages = sorted({f"torch {row['versions']['torch']}, ai-edge-litert {row['versions']['ai-edge-litert']}" for row in rows})
    ours = sorted({row["code"] for row in tuned if row["method"] == OURS})
    when, states = " to ".join(dict.fromkeys((dates[0], dates[-1]))), f"edgeprune's rows are of {len(ours)} state(s) of its code"
    source = "Written by `python -m benchmarks.search --render` from `benchmarks/results/search/`"
    made = (
        f"{source}; measured {when} on {'; '.join(devices)}, beside other work; {'; '.join(packages)}. {len(tuned)} fine-tunings; {states}."
    )
    earlier = [
        f"{model.name} at {', '.join(f'{100 * budget:g}' for budget in budgets)} %"
        for model in models
        if (budgets := [budget for budget in model.budgets if not any(cell.method == ALONE for cell in model.cells(budget))])
    ]
    said = [_wrap(made), COMMANDS, *map(_wrap, (RULES, OTHERS, CHOICE))]
    if earlier:
        said.append(_wrap(f"{EARLIER}: {'; '.join(earlier)}."))
    return "\n\n".join(["# Search: edgeprune beside other ways to choose widths", *said]) + "\n"


def _wrap(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), 140, break_long_words=False, break_on_hyphens=False)


def _spread(values: Iterable[float], digits: int) -> str:
    found = list(values)
    mean = f"{statistics.fmean(found):.{digits}f}"
    return mean if len(found) < 2 else f"{mean} ({min(found):.{digits}f}..{max(found):.{digits}f})"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
    return "\n".join(lines + [f"| {' | '.join(row)} |" for row in rows])


def _best_other(model: Model, budget: float, what: Callable[[Cell], float]) -> Cell | None:
    return max((cell for cell in model.cells(budget) if cell.method not in (OURS, ALONE)), key=what, default=None)


def _accuracy(when: str) -> Callable[[Cell], float]:
    return lambda cell: cell.mean(when, "accuracy")


def _nearness(when: str) -> Callable[[Cell], float]:
    return lambda cell: -cell.mean(when, "divergence")


def _summary(models: Sequence[Model]) -> str:
    """Per model and budget: the best other method, and edgeprune's margin."""
    rows, ahead = [], {"before": [0, 0], "after": [0, 0]}
    for model in models:
        for budget in model.budgets:
            ours = next((cell for cell in model.cells(budget) if cell.method == OURS), None)
            row = [model.name, f"{100 * budget:g} %"]
            for when in ("before", "after"):
                other, near = _best_other(model, budget, _accuracy(when)), _best_other(model, budget, _nearness(when))
                if ours is None or other is None or near is None:
                    row += ["", "", ""]
                    continue
                margin = ours.mean(when, "accuracy") - other.mean(when, "accuracy")
                ahead[when][0] += margin >= 0
                ahead[when][1] += 1
                row.append(f"{ours.mean(when, 'accuracy'):.1f}")
                row.append(f"{other.mean(when, 'accuracy'):.1f} {other.method} ({margin:+.1f})")
                row.append(f"{ours.mean(when, 'divergence'):.3f}, {near.mean(when, 'divergence'):.3f} {near.method}")
            rows.append(row)
    head = ["model", "budget", "before: edgeprune", "best other (margin)", "divergence: ours, best other"]
    head += ["after: edgeprune", "best other (margin)", "divergence: ours, best other"]
    counts = "; ".join(f"{when} fine-tuning in {won} of {total}" for when, (won, total) in ahead.items())
    won = f"edgeprune is at or above the best other {counts} points."
    return f"## Margins\n\n{_wrap(MARGINS)} {won}\n\n{_table(head, rows)}\n"


def _trade(models: Sequence[Model]) -> str:
    """Against Torch-Pruning at 50 %."""
    rows = []
    for model in models:
        for method in THEIRS:
            ours, theirs = model.cell(OURS, 0.5), model.cell(method, 0.5)
            if not (ours and theirs and ours.tuned and theirs.tuned):
                continue
            wanted = theirs.mean("after", "accuracy")
            difference = ours.mean("after", "accuracy") - wanted
            rows.append([model.name, method, f"{wanted:.1f}", f"{100 * theirs.ratio:.1f} %", f"{difference:+.1f}", faster(model, theirs)])
    if not rows:
        return ""
    head = ["model", "Torch-Pruning", "its accuracy", "its latency", "edgeprune's accuracy there", "times faster at its accuracy"]
    return f"## Against Torch-Pruning at 50 %\n\n{_wrap(TRADE)}\n\n{_table(head, rows)}\n"


def faster(model: Model, theirs: Cell) -> str:
    """How many times lower edgeprune's latency is at the other's accuracy, by linear interpolation; below 1 it is slower."""
    ours = [cell for budget in model.budgets if (cell := model.cell(OURS, budget)) and cell.tuned]
    curve = sorted([(cell.ratio, cell.mean("after", "accuracy")) for cell in ours] + [(1.0, model.setup["dense"]["accuracy"])])
    wanted = theirs.mean("after", "accuracy")
    if curve[0][1] >= wanted:
        return f"> {theirs.ratio / curve[0][0]:.2f}"
    for (left, low), (right, high) in itertools.pairwise(curve):
        if low < wanted <= high:
            return f"{theirs.ratio / (left + (wanted - low) / (high - low) * (right - left)):.2f}"
    return "its accuracy is above the dense model's"


def _longer(models: Sequence[Model]) -> str:
    """Some points again with more fine-tuning."""
    tables = []
    for model in models:
        for budget in model.budgets:
            steps = sorted({row["steps"] for cell in model.cells(budget) for row in cell.tuned})
            tables.append(f"{model.name} at {100 * budget:g} %, {', '.join(map(str, steps))} steps:\n\n{_budget(model, budget)}")
    return f"## With longer fine-tuning\n\n{_wrap(LONGER)}\n\n" + "\n".join(tables) if tables else ""


def _tuned() -> str:
    """Long runs of the whole tool, beside published figures."""
    found = read_tuned(FILE)
    if not found:
        return ""
    rows = []
    for row in found:
        (before, error, macs, _), (after, after_error, pruned_macs, _) = row["dense"], row["pruned"]
        ratio, low, high = row["ratio"]
        rows.append(
            [
                f"**edgeprune**, {row['epochs']:g} epochs",
                row["model"],
                f"{before:.1f} ± {error:.1f}",
                f"{after:.1f} ± {after_error:.1f}",
                f"{after - before:+.2f}",
                f"{macs / pruned_macs:.2f}",
                f"{100 * ratio:.1f} ({100 * low:.1f}..{100 * high:.1f})",
            ]
        )
    for method, network, start, end, times in PUBLISHED:
        known = ("", "") if start is None else (f"{start:.2f}", f"{end - start:+.2f}")
        rows.append([method, network, known[0], f"{end:.2f}", known[1], f"{times:.2f}", "not given"])
    head = ["method", "network", "accuracy before", "after", "change", "times fewer MACs", "latency, % of dense"]
    where = "; ".join(dict.fromkeys(f"{row['date']}, {row['device']}, torch {row['torch']}" for row in found))
    return f"## Long fine-tuning\n\n{_wrap(TUNED)} Measured {where}.\n\n{_table(head, rows)}\n"


def _effort(models: Sequence[Model]) -> str:
    """Device measurements and time per budget."""
    rows = []
    for method in METHODS:
        found = [row for model in models for row in model.rows.of("search") if row["method"] == method and not row["error"]]
        if not found:
            continue
        times, cpu = [row["search_s"] for row in found], [row["search_cpu_s"] for row in found]
        counts = [row["measurements"] for row in found]
        figures = [f"{statistics.fmean(counts):.1f} (most {max(counts)})", f"{statistics.median(times):.0f}", f"{max(times):.0f}"]
        rows.append([NAMES[method], str(len(found)), *figures, f"{statistics.median(cpu):.0f}"])
    head = ["method", "searches", "whole-model measurements a budget", "median s", "longest s", "median CPU s"]
    tables = [f"{model.name}: {model.setup['kernels']} entries, {model.setup['prepare_s']:.0f} s" for model in models]
    table = f"Its size, and the time for what was missing of it (with analysis, export and the dense model): {'; '.join(tables)}."
    return f"## Effort\n\n{_wrap(EFFORT)}\n{_wrap(table)}\n\n{_table(head, rows)}\n"


def points(model: Model) -> list[Point]:
    """Every prediction that was made before its measurement."""
    found = []
    for row in model.rows.of("search"):
        for one in [*row.get("tried", []), *([row["final"]] if "final" in row else [])]:
            if one.get("predicted_ms") is not None:
                found.append((one["predicted_ms"] / row["dense_ms"], one["measured_ms"] / row["dense_ms"], one["calibrated_on"] > 1))
    return found


def _prediction(models: Sequence[Model]) -> str:
    everything = {model.name: points(model) for model in models}
    everything["all"] = [point for found in everything.values() for point in found]
    rows = []
    for name, found in everything.items():
        cells = [name]
        for calibrated in (False, True):
            errors = [abs(x / y - 1.0) for x, y, known in found if known == calibrated]
            cells.append(str(len(errors)))
            cells += [f"{100 * value:.1f} %" for value in (statistics.fmean(errors), np.quantile(errors, 0.9))] if errors else ["", ""]
        rows.append(cells)
    head = ["model", "dense alone: plans", "mean error", "90 % below", "pruned ones too: plans", "mean error", "90 % below"]
    chart = f"![predicted against measured latency]({CHART})"
    return f"## Predicted against measured\n\n{chart}\n\n{_wrap(PREDICTION)}\n\n{_table(head, rows)}\n"


def _details(model: Model) -> str:
    """All figures of one model."""
    dense = model.setup["dense"]
    parts = [f"## {model.name}\n\nDense: {dense['accuracy']:.1f} %, loss {dense['loss']:.3f}, {model.setup['dense_ms']:.3f} ms.\n"]
    for budget in model.budgets:
        steps = sorted({row["steps"] for cell in model.cells(budget) for row in cell.tuned})
        parts.append(f"### {model.name} at {100 * budget:g} % ({', '.join(map(str, steps))} steps)\n\n{_budget(model, budget)}\n")
    return "\n".join(parts)


def _budget(model: Model, budget: float) -> str:
    rows = []
    for cell in sorted(model.cells(budget), key=lambda cell: -cell.mean("after", "accuracy")):
        last = cell.tuned[-1]
        low, high = min(row["low"] for row in cell.tuned), max(row["high"] for row in cell.tuned)
        rows.append(
            [
                NAMES[cell.method],
                f"{100 * cell.ratio:.1f} ({100 * low:.1f}..{100 * high:.1f})",
                _spread(cell.values("before", "accuracy")[:1], 1),
                _spread(cell.values("after", "accuracy"), 1),
                _spread(cell.values("before", "divergence")[:1], 3),
                _spread(cell.values("after", "divergence"), 3),
                _spread(cell.values("after", "loss"), 3),
                f"{last['macs'] / 1e6:.1f}",
                f"{last['parameters'] / 1e3:.0f}",
                f"{cell.search.get('measurements', 0)}",
                str(len(cell.tuned)),
            ]
        )
    head = ["method", "latency, % of dense", "accuracy before", "after", "divergence before", "after", "loss after"]
    head += ["MACs (M)", "parameters (k)", "measurements", "seeds"]
    failed = [cell for method in METHODS if (cell := model.cell(method, budget)) and cell.search["error"]]
    notes = "".join(f"\n{NAMES[cell.method]}: {cell.search['error']}.\n" for cell in failed)
    return _table(head, rows) + "\n" + notes
