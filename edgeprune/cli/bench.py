"""``edgeprune bench``."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edgeprune.cli.exit_codes import OF_VERDICT, Exit, epilog
from edgeprune.cli.live import watch
from edgeprune.cli.options import accelerator_option, history_option, json_option
from edgeprune.cli.output import echo, error_json, failures_code, print_json, show_error
from edgeprune.decode import JsonObject
from edgeprune.errors import EdgepruneError, HistoryError, InputError
from edgeprune.files import write_atomically
from edgeprune.verdict import overall

if TYPE_CHECKING:
    from edgeprune.bench import Artifact, BenchOptions, Report
    from edgeprune.bench.fleet import Outcome
    from edgeprune.bench.history import History
    from edgeprune.bench.limits import Gate, Judged
    from edgeprune.devices import Target

_NO_PROFILE = (
    "there are no times of operators: this runtime does not report them; TensorFlow's benchmark_model on the device does (--engine native)"
)
_INPUT = re.compile(r"(\d+(?:x\d+)*)(?::([a-z]+\d*))?")


def parse_threads(_: click.Context, __: click.Parameter, text: str | None) -> tuple[int, ...]:
    """``1,2,4`` as numbers."""
    try:
        counts = tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        counts = (0,)
    if any(count < 1 for count in counts):
        raise click.BadParameter(f"{text!r} is not a list of thread counts, such as 1,2,4")
    return counts


def parse_inputs(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[tuple[tuple[int, ...], str], ...]:
    """``1x3x224x224:float32`` as (shape, dtype); float32 unless given."""
    inputs = []
    for text in texts:
        match = _INPUT.fullmatch(text)
        if not match:
            raise click.BadParameter(f"{text!r} is not a shape, such as 1x3x224x224 or 1x16:int64")
        inputs.append((tuple(int(size) for size in match[1].split("x")), match[2] or "float32"))
    return tuple(inputs)


def parse_share(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """``95%`` as 0.95."""
    if text is None:
        return None
    number = text.removesuffix("%").strip()
    try:
        share = float(number) / 100 if text.endswith("%") else float(number)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise click.BadParameter(f"{text!r} is not a share above 0 and up to 100%, such as 95%")
    return share


def parse_gates(_: click.Context, __: click.Parameter, texts: tuple[str, ...]) -> tuple[Gate, ...]:
    """``slower:5%`` and the like."""
    from edgeprune.bench.limits import parse_gate

    try:
        return tuple(parse_gate(text) for text in texts)
    except InputError as error:
        raise click.BadParameter(str(error)) from error


def parse_sustained(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    """``10min`` in seconds."""
    from edgeprune.bench.sustained import parse_duration

    try:
        return parse_duration(text) if text is not None else None
    except InputError as error:
        raise click.BadParameter(str(error)) from error


def parse_label(_: click.Context, __: click.Parameter, label: str | None) -> str | None:
    """Text that cannot be mistaken for an id, ``latest`` or a file."""
    from edgeprune.bench.history import check_label

    try:
        if label is not None:
            check_label(label)
    except InputError as error:
        raise click.BadParameter(str(error)) from error
    return label


@dataclass(frozen=True)
class Finding:
    """What became of one target: what was measured, how it was judged, where it is stored."""

    target: Target
    report: Report | None = None
    judged: tuple[Judged, ...] = ()
    ids: tuple[int, ...] = ()
    error: EdgepruneError | None = None
    not_stored: HistoryError | None = None
    notes: tuple[str, ...] = ()

    def to_json(self) -> JsonObject:
        """As plain JSON values."""
        document: JsonObject = {"target": self.target.name} | (self.report.to_json() if self.report else {})
        document |= {"judged": [item.to_json() for item in self.judged], "history": list(self.ids)} | error_json(self.error)
        document["notes"] = list(self.notes)
        return document | ({"history_error": self.not_stored.message} if self.not_stored else {})


@dataclass(frozen=True)
class Job:
    """What is to be done on every target."""

    model: Artifact
    against: Artifact | None
    threads: tuple[int, ...]
    options: BenchOptions
    gates: tuple[Gate, ...]
    baseline: str | None
    label: str | None
    force: bool


@click.command(epilog=epilog(), short_help="Measure an exported model on a device, or compare two.")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--target", default="local:", show_default=True, help="A target's name, a group or an address, or several: pi4,pi5.")
@click.option("--against", type=click.Path(path_type=Path), help="A baseline to measure in turns with MODEL.")
@click.option(
    "--sustained",
    callback=parse_sustained,
    metavar="TIME",
    help="Keep the device under load for 10min, 90s or 1h, and show the latency over time with temperature and clock.",
)
@click.option("--beside", multiple=True, type=click.Path(path_type=Path), help="One more model that takes turns, with --sustained.")
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="Write the curves of --sustained as an HTML page.")
@click.option("--threads", callback=parse_threads, help="Thread counts, such as 1,2,4 [default: the device's cores, at most 4].")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    callback=parse_inputs,
    help="Shape of an input, such as 1x3x32x32, if the file does not fix it.",
)
@click.option("--engine", default="", help="Engine that runs MODEL, if its suffix does not say: native runs .tflite with benchmark_model.")
@click.option("--native", metavar="PATH", help="Path of benchmark_model on the device.")
@accelerator_option
@click.option("--require-delegated", callback=parse_share, metavar="SHARE", help="Fail where the accelerator takes less, such as 95%.")
@click.option("--min-time", type=click.FloatRange(min=0.05), help="Shortest sampling time of a model, in seconds.")
@click.option("--max-time", type=click.FloatRange(min=0.05), help="Longest sampling time of a model, in seconds.")
@click.option("--affinity", default="all", show_default=True, help="Processors to use: all, big, little, or a list such as 0,2-3.")
@click.option("--tune", is_flag=True, help="Fix the device's clocks while measuring, and restore them afterwards.")
@click.option("--meter", help="Energy meter, such as battery, command:TOOL or serial:PORT@BAUD [default: the first that works].")
@click.option("--no-energy", is_flag=True, help="Do not measure energy.")
@click.option("--limit-temperature", "limit_c", type=float, metavar="C", help="Do not measure while the device is hotter than this.")
@click.option("--profile", is_flag=True, help="Time each operator too, if the engine reports it.")
@click.option(
    "--fail-if",
    "gates",
    multiple=True,
    callback=parse_gates,
    metavar="KIND:LIMIT",
    help="Condition to check: slower:5%, latency:15ms, memory:20MB.",
)
@click.option(
    "--baseline", metavar="RESULT", help="An earlier result to compare with: latest, an id, a label, or a file that --json wrote."
)
@click.option("--force", is_flag=True, help="Compare with --baseline even if device, runtime, threads or clocks differ.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Write a JUnit report.")
@click.option("--label", callback=parse_label, help="Name to store the result under, such as a version.")
@history_option
@json_option
def command(model: Path, target: str, against: Path | None, inputs: Any, engine: str, junit: Path | None, **given: Any) -> int:
    """Measure MODEL (.tflite, .pt, .onnx, .pte) on a device: latency with its interval, peak memory, energy where there is a meter.

    Several targets are measured side by side.  Results are stored: see `edgeprune history`.
    """
    from edgeprune.bench import Artifact
    from edgeprune.devices.targets import resolve_targets

    gates, baseline = given["gates"], given["baseline"]
    if against and baseline:
        raise click.UsageError("--against and --baseline cannot be combined")
    if against and given["profile"]:
        raise click.UsageError("--against and --profile cannot be combined: time the operators of each model in a run of its own")
    if not against and not baseline and (relative := [gate.text for gate in gates if gate.needs_baseline]):
        raise click.UsageError(f"--fail-if {relative[0]} needs --against or --baseline")
    if junit and not ((folder := junit.absolute().parent).is_dir() and os.access(folder, os.W_OK)):
        raise InputError(f"the JUnit report {junit} cannot be written", remedy=f"{folder} is not a folder that can be written to.")
    targets = resolve_targets(target)
    if given["sustained"] is not None:
        return _sustained([model, *filter(None, [against]), *given["beside"]], targets, inputs, engine, given)
    if wrong := [option for option in ("beside", "report") if given[option]]:
        raise click.UsageError(f"--{wrong[0]} needs --sustained")
    job = Job(
        model=Artifact(model, inputs=inputs, engine_name=engine),
        against=Artifact(against, inputs=inputs, engine_name=engine) if against else None,
        options=_options(given),
        **{name: given[name] for name in ("threads", "gates", "baseline", "label", "force")},
    )
    findings = _measure(job, targets, given["history"])
    try:
        _print(findings, given["as_json"])
    finally:
        if junit:
            _write_junit(junit, findings, job)
    return _exit_code(findings, gates)


def _sustained(paths: Sequence[Path], targets: Sequence[Target], inputs: Any, engine: str, given: dict[str, Any]) -> int:
    """``--sustained``: another kind of result, which no gate and no history takes."""
    from edgeprune.bench import Artifact
    from edgeprune.cli.sustained import run

    refused = {"gates": "--fail-if", "baseline": "--baseline", "profile": "--profile", "label": "--label"}
    if wrong := [option for name, option in refused.items() if given[name]]:
        raise click.UsageError(f"--sustained and {wrong[0]} cannot be combined")
    if len(given["threads"]) > 1:
        raise click.UsageError("--sustained takes one number of threads")
    options = replace(_options(given), energy=False, threads=(given["threads"] or (None,))[0])
    artifacts = [Artifact(path, inputs=inputs, engine_name=engine) for path in paths]
    if given["report"] and len(targets) > 1:
        raise click.UsageError("--report shows one device: name one target")
    return run(artifacts, targets, given["sustained"], options, given["as_json"], given["report"])


def _options(given: dict[str, Any]) -> BenchOptions:
    from edgeprune.bench import BenchOptions

    standard = BenchOptions()
    chosen: dict[str, Any] = {name: given[name] for name in ("affinity", "tune", "meter", "limit_c", "profile", "native")}
    chosen |= {name: given[name] for name in ("accelerator", "require_delegated")}
    shortest, longest = given["min_time"], given["max_time"]
    chosen["min_time_s"] = shortest or min(standard.min_time_s, longest or standard.min_time_s)
    chosen["max_time_s"] = longest or max(standard.max_time_s, shortest or standard.max_time_s)
    return replace(standard, energy=not given["no_energy"], **chosen)


def _measure(job: Job, targets: Sequence[Target], url: str | None) -> list[Finding]:
    from edgeprune.bench import bench
    from edgeprune.bench.compare import is_file, load_results, stored
    from edgeprune.bench.content import require_content
    from edgeprune.bench.fleet import side_by_side

    history, history_error = _open(url)
    try:
        if job.baseline is not None:  # said before anything is measured
            if is_file(job.baseline):
                load_results(Path(job.baseline))
            elif history_error:
                raise history_error
            else:
                stored(history).find(job.baseline)
        for artifact in filter(None, (job.model, job.against)):
            require_content(artifact.path, artifact.engine)
        with watch(targets) as show:
            outcomes = side_by_side(
                targets, lambda target, tell: bench(job.model, target.name, job.against, job.threads, job.options, tell), show
            )
        return [_finding(outcome, job, history, history_error) for outcome in outcomes]
    finally:
        if history:
            history.close()


def _open(url: str | None) -> tuple[History | None, HistoryError | None]:
    """The history, or why there is none: that must not prevent a measurement."""
    from edgeprune.bench.history import History

    try:
        return (History(url) if url else None), None
    except HistoryError as error:
        return None, error


def _finding(outcome: Outcome[Report], job: Job, history: History | None, not_stored: HistoryError | None) -> Finding:
    """Judge what was measured, and store it."""
    from edgeprune.bench.limits import judge_report

    if outcome.result is None:
        return Finding(outcome.target, error=outcome.error)
    notes = (_NO_PROFILE,) if job.options.profile and any(item.operators is None for item in outcome.result.measurements) else ()
    finding = Finding(outcome.target, outcome.result, not_stored=not_stored, notes=notes)
    try:
        judged = judge_report(outcome.result, job.model.path.name, job.gates, job.baseline, history, job.force)
        finding = replace(finding, judged=tuple(judged))
    except EdgepruneError as error:
        finding = replace(finding, error=error)
    if history:
        try:
            finding = replace(finding, ids=history.add(outcome.result, outcome.target.name, job.model, job.against, job.label))
        except HistoryError as error:
            finding = replace(finding, not_stored=error)
    return finding


def _print(findings: Sequence[Finding], as_json: bool) -> None:
    from edgeprune.cli.measured import print_fleet, print_judged, print_report

    alone = findings[0] if len(findings) == 1 else None
    if as_json and (alone is None or alone.report):
        failed = sum(finding.error is not None for finding in findings)
        print_json(alone.to_json() if alone else {"devices": [finding.to_json() for finding in findings], "failed": failed})
    elif not as_json:
        if alone is None:
            print_fleet([(item.target.name, item.report, "failed" if item.error else "") for item in findings])
        for finding in findings:
            if finding is alone and finding.report:
                print_report(finding.report)
            if alone is None and any(item.change or item.judgements for item in finding.judged):
                echo(f"{finding.target.name}:")
            print_judged(finding.judged)
        for note in dict.fromkeys(note for finding in findings for note in finding.notes):
            echo(note)
    if unstored := next((finding.not_stored for finding in findings if finding.not_stored), None):
        show_error(f"the result was not stored: {unstored.message}", unstored.remedy)
    if alone and alone.error:
        raise alone.error
    for finding in findings:
        if finding.error:
            show_error(f"{finding.target.name}: {finding.error.message}", finding.error.remedy)


def _exit_code(findings: Sequence[Finding], wanted: Sequence[Gate]) -> int:
    verdicts = [said.verdict for finding in findings for item in finding.judged for said in item.judgements]
    return failures_code([finding.error for finding in findings]) or (OF_VERDICT[overall(verdicts)] if wanted else Exit.DONE)


def _write_junit(path: Path, findings: Sequence[Finding], job: Job) -> None:
    from edgeprune.bench.junit import Case, Suite, junit_xml

    states = {"passed": "passed", "failed": "failed", "inconclusive": "skipped"}
    suites = []
    for finding in findings:
        cases = [Case("measured", job.model.name, "error", finding.error.message)] if finding.error else []
        for item in finding.judged:
            name = f"{job.model.name}, {item.measurement.threads} threads"
            text = f"median latency {item.measurement.latency_ms:.4f} ms ({item.measurement.low_ms:.4f} to {item.measurement.high_ms:.4f})"
            cases.append(Case("measured", name, "passed", text, item.measurement.sampled_s or 0.0))
            cases += [Case(said.gate.text, name, states[said.state], said.message) for said in item.judgements]
        device = {"device": finding.report.device.identity} if finding.report else {}
        suites.append(Suite(f"edgeprune bench on {finding.target.name}", cases, {"target": finding.target.name} | device))
    _write(path, junit_xml(suites))


def _write(path: Path, text: str) -> None:
    """Write all of it or nothing; what is not a regular file, such as a pipe, is written directly."""
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8")
        else:
            write_atomically(path, text)
    except OSError as error:
        raise InputError(
            f"the JUnit report {path} cannot be written: {error.strerror}", remedy="Name a file in a folder that exists and can be written."
        ) from error
