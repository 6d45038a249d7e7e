"""One variant of a release, put together of a finished run."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from edgeprune.bench import Measurement
from edgeprune.bench.history import History
from edgeprune.errors import EvidenceError, InputError
from edgeprune.export import formats
from edgeprune.micro import write_c_array
from edgeprune.profile import load as load_profile
from edgeprune.release.build.build_spec import BuildSpec
from edgeprune.release.build.evidence import Found, compatibility_of, from_history, from_run
from edgeprune.release.build.health import health_of, tolerance_of
from edgeprune.release.build.limits import judge
from edgeprune.release.build.scores import score_of
from edgeprune.release.bundle.codec import canonical
from edgeprune.release.bundle.manifest import Compatibility, Evidence, File, Gate, Health, Variant
from edgeprune.runs.finished import Exported, FinishedRun, Score


class Contents:
    """All contents of a release, by SHA-256."""

    def __init__(self) -> None:
        self.by_hash: dict[str, bytes] = {}

    def file(self, path: str, content: bytes, role: str, format_name: str = "", engine: str = "") -> File:
        """Keep a content, and describe the file that has it."""
        digest = hashlib.sha256(content).hexdigest()
        self.by_hash[digest] = content
        try:
            return File(path, len(content), digest, role, format_name, engine)
        except ValueError as error:
            raise InputError(f"{path} cannot be part of a release: {error}") from error


class Assembly:
    """Puts a variant together.  ``times``: of all measurements and files in it; a score is of the file, whenever it was computed."""

    def __init__(self, name: str, run: FinishedRun, spec: BuildSpec, contents: Contents) -> None:
        self.name, self.run, self.spec, self._contents = name, run, spec, contents
        self.times: list[str] = []
        self._files: list[File] = []

    def variant(self, note: Callable[[str], None]) -> Variant:
        """The variant.  Raises what :func:`edgeprune.release.build.build` raises."""
        shipped = self._shipped()
        found = self._found(shipped)
        model = self._model(shipped, found)
        if not found[model.sha256]:
            note(f"variant {self.name}: {model.path.name} was measured on no device, and the release will say so")
        score = score_of(self.run, model, self.spec.recipe, note)
        evidence: list[Evidence] = []
        for exported in shipped:
            self._add_artifact(exported, exported is model)
            for one in found[exported.sha256]:
                raw = self._add(f"evidence/{len(evidence) + 1}.json", one.raw(), "evidence")
                evidence.append(one.evidence(exported, score if exported is model else None, raw))
        self._add_source(model)
        self._add_task()
        self.times += [item.measured_at for item in evidence] + [one.written_at for one in shipped]
        return Variant(
            compatibility=self._compatibility(model, found[model.sha256]),
            gates=self._gates(model, found[model.sha256], score),
            health=self._health(model),
            evidence=tuple(evidence),
            files=tuple(sorted(self._files, key=lambda file: file.path)),
        )

    def _add(self, path: str, content: bytes, role: str, format_name: str = "", engine: str = "") -> str:
        self._files.append(self._contents.file(path, content, role, format_name, engine))
        return path

    def _shipped(self) -> list[Exported]:
        """The exports to be shipped, in the run's spec."""
        known = {one.format: one for one in self.run.exported}
        if missing := [name for name in (*self.spec.formats, *([self.spec.model] if self.spec.model else [])) if name not in known]:
            raise InputError(
                f"variant {self.name}: the run {self.run.path} has no export in the format {missing[0]}",
                remedy=f"It has {', '.join(known)}; a run exports more with --format.",
            )
        wanted = self.spec.formats or [name for name in known if name in formats.names() and formats.find(name).engine]
        shipped = [known[name] for name in dict.fromkeys((*wanted, *([self.spec.model] if self.spec.model else [])))]
        if not shipped:
            raise InputError(f"variant {self.name}: the run {self.run.path} has no export that a device runs")
        return shipped

    def _found(self, shipped: Sequence[Exported]) -> dict[str, list[Found]]:
        """The measurements of every export."""
        if references := self.spec.evidence.get(self.name):
            return self._from_history(shipped, references)
        return {one.sha256: [mine] if (mine := from_run(self.run, one)) else [] for one in shipped}

    def _from_history(self, shipped: Sequence[Exported], references: Sequence[str]) -> dict[str, list[Found]]:
        found: dict[str, list[Found]] = {one.sha256: [] for one in shipped}
        with History(self.spec.history) as history:
            for reference in references:
                entry = history.find(reference)
                exported = next((one for one in shipped if one.sha256 == entry.model_sha256), shipped[0])
                found[exported.sha256].append(from_history(entry, exported, self.run))
        return found

    def _model(self, shipped: Sequence[Exported], found: dict[str, list[Found]]) -> Exported:
        """The artifact that consumers load: the one asked for, or the one that was measured."""
        measured = [one for one in shipped if found[one.sha256] and self.spec.model in (None, one.format)]
        if len(measured) > 1:
            names = ", ".join(one.format for one in measured)
            raise InputError(
                f"variant {self.name}: several formats were measured ({names})", remedy="Choose the one to load: --model FORMAT."
            )
        wanted = [one for one in shipped if self.spec.model in (None, one.format)]
        if not measured and (self.run.result.measured or any(found.values())):
            raise EvidenceError(
                f"variant {self.name}: {' and '.join(one.path.name for one in wanted)} was not measured",
                remedy="Let the format that was measured be the one to load (--model), or measure it: edgeprune bench, then --evidence.",
            )
        return (measured or wanted)[0]

    def _add_artifact(self, exported: Exported, is_model: bool) -> None:
        entry = formats.find(exported.format)
        path = f"model{Path(exported.path.name).suffix}" if is_model else f"alternatives/{exported.path.name}"
        engine = entry.engine if self.run.micro is None else None  # firmware holds its own
        self._add(path, exported.content, "model" if is_model else "alternative", exported.format, engine or "")

    def _add_source(self, model: Exported) -> None:
        """The model as a C array, for firmware, where its arena was measured; made of the very bytes that are shipped."""
        found = self.run.arena(model.sha256)
        if found is None:
            return
        with TemporaryDirectory() as folder:
            for path in write_c_array(model.content, Path(folder), "model", found[1]):
                self._add(f"c/{path.name}", path.read_bytes(), "source", "c-array")

    def _add_task(self) -> None:
        """Labels, one a line, and preprocessing, where the task has them."""
        labels = self.run.result.labels
        if any(len(label.splitlines()) != 1 or label.splitlines()[0] != label for label in labels):
            raise InputError(f"variant {self.name}: a label of the task is empty or has several lines")
        if labels:
            self._add("labels.txt", ("\n".join(labels) + "\n").encode(), "labels")
        if preprocessing := self.run.result.preprocessing:
            try:
                content = canonical(preprocessing)
            except ValueError as error:
                raise InputError(f"variant {self.name}: the task's preprocessing is not JSON: {error}") from error
            self._add("preprocessing.json", content, "preprocessing")

    def _gates(self, model: Exported, found: Sequence[Found], score: Score | None) -> tuple[Gate, ...]:
        dense, metric = self.run.result.dense.metric, score.metric if score else None
        measurements: list[Measurement | None] = [one.measurement for one in found] or [None]
        judged = {
            judge(gate, self.name, len(model.content), measurement, self.run.metric_name, metric, dense, self.run.higher_is_better): None
            for gate in self.spec.wanted(self.name)
            for measurement in measurements
        }
        return tuple(judged)

    def _health(self, model: Exported) -> Health:
        inputs, outputs = health_of(model, self.run.result.inputs)
        return Health(
            inputs=tuple(self._add(f"health/input-{place}.npy", content, "health") for place, content in enumerate(inputs)),
            outputs=tuple(self._add(f"health/output-{place}.npy", content, "health") for place, content in enumerate(outputs)),
            tolerance=tolerance_of(model.format),
        )

    def _compatibility(self, model: Exported, found: Sequence[Found]) -> Compatibility:
        profiles = tuple(self.spec.profiles.get(self.name, ()))
        asked = compatibility_of(found, formats.find(model.format).engine or "") if found else self._of_profile()
        memory = asked.min_memory_bytes if self.spec.min_memory_bytes is None else self.spec.min_memory_bytes
        boards = () if profiles else asked.boards
        return Compatibility(asked.architectures, memory, asked.runtimes, boards, profiles or asked.profiles)

    def _of_profile(self) -> Compatibility:
        """What the profile of an unmeasured run says."""
        name = self.run.inputs.profile
        if not name:
            return Compatibility()
        profile = load_profile(name)
        architecture = profile.cpu.architecture
        return Compatibility(() if architecture == "any" else (architecture,), profiles=(profile.name,) if architecture != "any" else ())
