"""The bill of materials: a CycloneDX 1.5 document in JSON.

Source: https://cyclonedx.org/docs/1.5/json/ (ECMA-424 describes its successor).
"""

from __future__ import annotations

import hashlib
import uuid

from edgeprune.decode import JsonObject
from edgeprune.release.build.licences import RUNTIMES
from edgeprune.release.bundle.codec import canonical
from edgeprune.release.bundle.manifest import Evidence, File, Runtime, Variant


def sbom(product: str, version: str, created: str, variants: dict[str, Variant], tools: dict[str, str]) -> bytes:
    """The product with its artifacts (with hashes and measured figures), the runtimes they need, and the tools that made them.

    ``tools``: versions by package. The same arguments give the same bytes: the serial number is made of the content.
    """
    artifacts = {f"{name}/{file.path}": _artifact(name, file, variant) for name, variant in variants.items() for file in _models(variant)}
    runtimes = {_purl(runtime): runtime for variant in variants.values() for runtime in variant.compatibility.runtimes}
    product_ref = f"{product}@{version}"
    needs = {
        f"{name}/{file.path}": [_purl(one) for one in variant.compatibility.runtimes if one.engine == file.engine]
        for name, variant in variants.items()
        for file in _models(variant)
    }
    document: JsonObject = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": created,
            "tools": {"components": [_tool(name, number) for name, number in sorted(tools.items())]},
            "component": {"type": "application", "bom-ref": product_ref, "name": product, "version": version},
        },
        "components": [artifacts[key] for key in sorted(artifacts)] + [_runtime(runtimes[key]) for key in sorted(runtimes)],
        "dependencies": [{"ref": product_ref, "dependsOn": sorted(artifacts)}]
        + [{"ref": key, "dependsOn": sorted(needs[key])} for key in sorted(needs)],
    }
    digest = hashlib.sha256(canonical(document)).digest()
    document["serialNumber"] = f"urn:uuid:{uuid.UUID(bytes=digest[:16], version=5)}"
    return canonical(document)


def _models(variant: Variant) -> list[File]:
    return [file for file in variant.files if file.role in ("model", "alternative", "source")]


def _artifact(name: str, file: File, variant: Variant) -> JsonObject:
    component: JsonObject = {
        "type": "machine-learning-model",
        "bom-ref": f"{name}/{file.path}",
        "name": f"{name}/{file.path}",
        "hashes": [{"alg": "SHA-256", "content": file.sha256}],
        "properties": [{"name": "edgeprune:format", "value": file.format}, {"name": "edgeprune:bytes", "value": str(file.bytes)}],
    }
    metrics = [metric for item in variant.evidence if item.artifact == file.sha256 for metric in _metrics(item)]
    if metrics:
        component["modelCard"] = {"quantitativeAnalysis": {"performanceMetrics": metrics}}
    return component


def _metrics(item: Evidence) -> list[JsonObject]:
    where = f"{item.device}, {item.runtime} {item.runtime_version}, {item.threads} threads"
    found: list[JsonObject] = [{"type": "peak_bytes", "value": str(item.peak_bytes), "slice": where}]
    if item.latency_ms is not None:
        bounds = {"lowerBound": f"{item.low_ms:.6g}", "upperBound": f"{item.high_ms:.6g}"}
        found.append({"type": "latency_ms", "value": f"{item.latency_ms:.6g}", "slice": where, "confidenceInterval": bounds})
    if item.energy_mj is not None:
        found.append({"type": "energy_mj", "value": f"{item.energy_mj:.6g}", "slice": where})
    if item.metric is not None:
        found.append({"type": str(item.metric_name), "value": f"{item.metric:.6g}", "slice": "validation data"})
    return found


def _runtime(runtime: Runtime) -> JsonObject:
    component: JsonObject = {
        "type": "library",
        "bom-ref": _purl(runtime),
        "name": runtime.package,
        "purl": _purl(runtime),
        "scope": "required",
        "properties": [{"name": "edgeprune:versions", "value": runtime.versions or "any"}],
    }
    if licence := RUNTIMES.get(runtime.package):
        component["licenses"] = [{"license": {"id": licence[0]}}]
    return component


def _tool(name: str, number: str) -> JsonObject:
    return {"type": "application", "name": name, "version": number}


def _purl(runtime: Runtime) -> str:
    return f"pkg:pypi/{runtime.package}"
