"""What a release is asked to be: versions, sequences and dates, and requests that make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from release_runs import build_spec, fails

from edgeprune.errors import EdgepruneError, InputError
from edgeprune.release.build.build_spec import BuildSpec

pytestmark = pytest.mark.usefixtures("here")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"version": "1.4"}, "the version '1.4' is not of the form"),
        ({"version": "1.4.0-rc.1"}, "no sequence can be derived from the version 1.4.0-rc.1"),
        ({"version": "1.1000.0"}, "no sequence can be derived"),
        ({"version": "0.0.0"}, "no sequence can be derived"),
        ({"gates": ["latency:50%"]}, "is a percentage"),
        ({"gates": ["latency"]}, "'latency' is not a condition|not a gate"),
        ({"gates": ["slower:5%"]}, "is a percentage"),
        ({"gates": ["accuracy:good"]}, "'accuracy:good' is not a gate"),
        ({"gates": ["pi9=latency:5ms"]}, "there is no variant 'pi9'\nVariants: pi4"),
        ({"evidence": {"pi9": ["1"]}}, "there is no variant 'pi9'"),
        ({"profiles": {"pi4": ["raspberry"]}}, "unknown profile 'raspberry'"),
        ({"formats": ["tflight"]}, "unknown export format 'tflight'"),
        ({"expires": "soon"}, "'soon' is not an expiry"),
        ({"expires": "2026-02-30"}, "is not an expiry"),
        ({"sequence": 0}, "the sequence 0"),
    ],
)
def test_what_makes_no_sense_is_refused_before_any_work(tmp_path, fields, said):
    with pytest.raises(EdgepruneError, match=said):
        BuildSpec(**({"runs": {"pi4": tmp_path / "never read"}, "version": "1.0.0"} | fields))


def test_versions_make_sequences_that_grow():
    versions = ["0.0.1", "0.1.0", "0.1.999", "1.0.0", "1.0.1", "1.2.0", "10.0.0"]
    numbers = [BuildSpec(runs={"a": Path()}, version=version).number for version in versions]
    assert numbers == sorted(set(numbers))
    assert BuildSpec(runs={"a": Path()}, version="1.4.0-rc.1", sequence=7).number == 7


@pytest.mark.parametrize(
    ("text", "expires"),
    [
        ("1y", "2027-01-31T00:00:00Z"),
        ("6w", "2026-03-14T00:00:00Z"),
        ("90d", "2026-05-01T00:00:00Z"),
        ("2026-02-01", "2026-02-01T00:00:00Z"),
        ("never", None),
    ],
)
def test_expiry_is_counted_from_the_creation(text, expires):
    assert BuildSpec(runs={"a": Path()}, version="1.0.0", expires=text).expiry("2026-01-31T00:00:00Z") == expires


def test_a_date_before_the_evidence_is_not_an_expiry(run, tmp_path):
    fails(build_spec(run, expires="2020-01-01"), InputError, "would expire at 2020-01-01T00:00:00Z, before", tmp_path)
