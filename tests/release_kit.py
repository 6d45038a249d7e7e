"""Bundles for tests: small, signed, and of any version."""

from __future__ import annotations

import hashlib
import io
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgeprune.release import Compatibility, Evidence, File, Gate, Health, Manifest, Runtime, Variant
from edgeprune.release.bundle.file import write_bundle
from edgeprune.release.bundle.sign import sign
from edgeprune.testing.models import dense_tflite


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def file_of(path: str, content: bytes, role: str, format: str = "", engine: str = "") -> File:
    return File(path, len(content), hashlib.sha256(content).hexdigest(), role, format, engine)


def make_key(path: Path) -> Path:
    """An ed25519 key, and beside it ``<path>.allowed``, a file of allowed signers with it."""
    if not path.exists():
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path)], check=True)
        kind, key = Path(f"{path}.pub").read_text().split()[:2]
        Path(f"{path}.allowed").write_text(f'{path.name}@example.org namespaces="edgeprune-release" {kind} {key}\n')
    return path


@dataclass
class Kit:
    """Makes bundles in ``folder``.  ``runs``: their model is one that a runtime loads, with a health check; otherwise of no engine."""

    folder: Path
    runs: bool = False

    @property
    def key(self) -> Path:
        return make_key(self.folder / "release")

    @property
    def allowed(self) -> Path:
        return Path(f"{self.key}.allowed")

    def variant(self, seed: int, **fields: object) -> tuple[Variant, dict[str, bytes]]:
        """A variant of its own content, and its files."""
        weights = np.random.default_rng(seed).standard_normal((8, 16)).astype(np.float32)
        contents = {"model.tflite": dense_tflite(weights), "labels.txt": f"labels {seed}\n".encode()}
        engine = "tflite" if self.runs else ""
        files = [
            file_of("model.tflite", contents["model.tflite"], "model", "tflite", engine),
            file_of("labels.txt", contents["labels.txt"], "labels"),
        ]
        if self.runs:
            inputs = np.random.default_rng(1).standard_normal((1, 16)).astype(np.float32)
            contents |= {"health/input0.npy": npy(inputs), "health/output0.npy": npy(inputs @ weights.T)}
            files += [file_of(name, contents[name], "health") for name in list(contents)[2:]]
            fields = {"health": Health(("health/input0.npy",), ("health/output0.npy",), 1e-5)} | fields
        return Variant(**({"compatibility": Compatibility(), "files": tuple(files)} | fields)), contents  # type: ignore[arg-type]

    def bundle(
        self,
        version: str,
        sequence: int,
        variants: dict[str, dict[str, object]] | None = None,
        signed: bool = True,
        shared: bytes = b"shared by all releases\n" * 1000,
        expires: str | None = None,
        product: str = "gadget",
        contents: dict[str, bytes] | None = None,
    ) -> Path:
        """A bundle; ``contents`` replaces or adds files of every variant (of role ``alternative``)."""
        objects = {hashlib.sha256(shared).hexdigest(): shared}
        made = {}
        for name, fields in (variants or {"any": {}}).items():
            variant, files = self.variant(sequence, **fields)
            for path, content in (contents or {}).items():
                kept = tuple(file for file in variant.files if file.path != path)
                old = next((file for file in variant.files if file.path == path), None)
                new = file_of(path, content, old.role if old else "alternative", old.format if old else "", old.engine if old else "")
                variant = Variant(variant.compatibility, (*kept, new), variant.gates, variant.health, variant.evidence)
                files[path] = content
            made[name] = variant
            objects |= {hashlib.sha256(content).hexdigest(): content for content in files.values()}
        manifest = Manifest(product, version, sequence, "2026-01-01T00:00:00Z", expires, made, (file_of("LICENSE", shared, "licence"),))
        wanted = manifest.objects()
        path = self.folder / f"{product}-{version}.epb"
        pieces = {key: (len(data), lambda data=data: [data]) for key, data in objects.items() if key in wanted}
        write_bundle(path, manifest.to_bytes(), {}, pieces)
        if signed:
            sign(path, self.key)
        return path


__all__ = ["Compatibility", "Evidence", "Gate", "Kit", "Runtime", "file_of", "make_key", "npy"]
