"""Device profiles: what is shipped is well-formed and sourced, devices are recognised, priors agree with published latencies."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from benchmarks import fit_priors, prior_width
from edgeprune.cost.kernels import macs
from edgeprune.cost.prior import power_of
from edgeprune.errors import ProfileError
from edgeprune.profile import KINDS, load, match, names
from edgeprune.resources import resource

MICRO = ["esp32-s3", "nrf5340", "stm32h7a3", "stm32l4r5"]  # test_micro_profiles.py
SHIPPED = [
    "generic-linux",
    "jetson-nano",
    "jetson-orin-nano",
    "pixel-1",
    "pixel-6",
    "raspberry-pi-3b-plus",
    "raspberry-pi-4",
    "raspberry-pi-5",
    "raspberry-pi-zero-2w",
    "raspberry-pi-zero-w",
    "wear-os",
]


def test_the_shipped_profiles():
    assert names() == sorted(SHIPPED + MICRO)


@pytest.mark.parametrize("name", SHIPPED)
def test_a_profile_is_complete_and_every_number_has_a_unit_and_a_source(name):
    profile = load(name)
    assert profile.name == name
    assert set(profile.prior.macs_per_s) == set(KINDS) == {"conv", "pointwise", "depthwise", "fully_connected"}
    assert 1 <= profile.prior.threads <= profile.cpu.cores
    assert profile.channel_step == profile.prior.channel_step == (4 if name == "raspberry-pi-zero-w" else 8)  # no vector unit
    assert 0 < profile.power.idle_w < profile.power.active_w
    for key, fact in profile.facts.items():
        assert fact.source, key
        assert (fact.unit == "") == isinstance(fact.value, str), key


def test_published_facts():
    pi4, zero, orin = load("raspberry-pi-4"), load("raspberry-pi-zero-2w"), load("jetson-orin-nano")
    assert (pi4.cpu.core, pi4.cpu.cores, pi4.cpu.clock_hz) == ("Cortex-A72", 4, 1.5e9)
    assert pi4.power.idle_w == 3.0  # 0.6 A at 5 V
    assert zero.memory.bytes == 512 * 2**20
    assert (orin.cpu.core, orin.cpu.cores, orin.memory.bandwidth_bytes_per_s) == ("Cortex-A78AE", 6, 68e9)
    assert "Raspberry Pi documentation" in pi4.facts["power.idle_w"].source


def test_a_battery_is_known_where_a_profile_states_one():
    assert load("wear-os").battery_mwh == 2430
    assert "TicWatch" in load("wear-os").facts["battery.capacity_mwh"].source
    assert load("raspberry-pi-4").battery_mwh is None


@dataclass
class Info:
    board: str = ""
    cpu: str = "unknown"
    arch: str = "aarch64"
    cores: int = 4
    memory_bytes: int = 4_000_000_000


@pytest.mark.parametrize(
    ("info", "expected"),
    [
        (Info("Raspberry Pi 4 Model B Rev 1.4", "Cortex-A72"), "raspberry-pi-4"),
        (Info("Raspberry Pi 4 Model B Rev 1.4", "Cortex-A72", arch="armv7l"), "raspberry-pi-4"),
        (Info("Raspberry Pi 400 Rev 1.0", "Cortex-A72"), "raspberry-pi-4"),
        (Info("Raspberry Pi 5 Model B Rev 1.0", "Cortex-A76"), "raspberry-pi-5"),
        (Info("Raspberry Pi Compute Module 5 Rev 1.0", "Cortex-A76"), "raspberry-pi-5"),
        (Info("Raspberry Pi Zero 2 W Rev 1.0", "Cortex-A53"), "raspberry-pi-zero-2w"),
        (Info("Raspberry Pi 3 Model B Plus Rev 1.3", "Cortex-A53"), "raspberry-pi-3b-plus"),
        (Info("Raspberry Pi 3 Model B Rev 1.2", "Cortex-A53"), None),
        (Info("Raspberry Pi Zero W Rev 1.1", "ARM1176", arch="armv6l", cores=1), "raspberry-pi-zero-w"),
        (Info("NVIDIA Jetson Nano Developer Kit", "Cortex-A57"), "jetson-nano"),
        (Info("NVIDIA Jetson Orin Nano Developer Kit", "Cortex-A78AE", cores=6), "jetson-orin-nano"),
        (Info("NVIDIA Jetson AGX Orin Developer Kit", "Cortex-A78AE", cores=12), None),
        (Info("Some other board", "Cortex-A72"), None),  # the board decides
        (Info("", "Cortex-A72"), "raspberry-pi-4"),
        (Info("", "Cortex-A72", cores=2), None),
        (Info("", "Cortex-A53", memory_bytes=447_000_000), "raspberry-pi-zero-2w"),
        (Info("", "Cortex-A53", memory_bytes=950_000_000), None),
        (Info("", "Cortex-A55 + Cortex-A76 + Cortex-X1", cores=8), "pixel-6"),
        (Info("", "Intel(R) Xeon(R) CPU @ 2.20GHz", arch="x86_64"), None),
    ],
)
def test_devices_are_recognised(info, expected):
    assert match(info) == expected


def test_mobilenet_v2_on_a_pi_4_takes_what_xnnpack_published():
    assert fit_priors.predict(load("raspberry-pi-4"), "v2") == pytest.approx(46.0, rel=0.05)


@pytest.mark.soak
def test_priors_scale_with_width_as_published():
    found = prior_width.ratios(load("pixel-1"))
    assert {name: known for name, (known, _) in found.items()} == pytest.approx(
        {"v2 x 0.75": 55.8 / 73.8, "v2 x 0.5": 28.7 / 73.8, "v2 x 0.35": 19.7 / 73.8, "v1 x 0.75": 72.5 / 123}
    )
    for name, (known, predicted) in found.items():
        assert predicted == pytest.approx(known, rel=0.15), name


def test_the_check_of_widths_fails_beyond_its_limit(monkeypatch, capsys):
    monkeypatch.setattr(prior_width, "PUBLISHED", {"v1 x 0.75": prior_width.PUBLISHED["v1 x 0.75"]})
    assert prior_width.main() == 0
    assert "within 15 %" in capsys.readouterr().out
    monkeypatch.setattr(prior_width, "LIMIT", 1e-9)
    assert prior_width.main() == 1
    shown = capsys.readouterr().out
    assert "beyond 0 %" in shown
    assert all(name in shown for name in SHIPPED)


@pytest.mark.parametrize("models", [("v1", "v2"), pytest.param(("v3-large", "v3-small"), marks=pytest.mark.soak)])
@pytest.mark.parametrize("name", SHIPPED)
def test_a_prior_predicts_what_it_was_fitted_to(name, models):
    profile = load(name)
    published = fit_priors.published(name)
    assert len(published) >= 3
    for model, milliseconds in published.items():
        if model not in models:
            continue
        assert fit_priors.predict(profile, model) == pytest.approx(milliseconds, rel=0.12), model


def test_mobilenet_v1_of_the_benchmark_is_the_papers():
    model = fit_priors.mobilenet_v1()
    assert sum(parameter.numel() for parameter in model.parameters()) == 4_231_976  # Howard et al., 2017: 4.2 million
    total = sum(macs(kernel.spec, in_width, out_width) for kernel, in_width, out_width in fit_priors.shapes("v1"))
    assert total == pytest.approx(569e6, rel=0.002)


def test_faster_boards_are_predicted_faster():
    order = [
        "raspberry-pi-zero-w",
        "raspberry-pi-zero-2w",
        "raspberry-pi-3b-plus",
        "wear-os",
        "raspberry-pi-4",
        "jetson-nano",
        "raspberry-pi-5",
        "jetson-orin-nano",
    ]
    rates = [load(name).prior.macs_per_s["pointwise"] for name in order]
    assert rates == sorted(rates)


def test_power_is_above_idle():
    active, mac, byte = power_of(load("raspberry-pi-4"))
    assert active == pytest.approx(2.85)
    assert (mac, byte) == (4.6, 162.0)


@pytest.fixture
def own(tmp_path: Path):
    """A file of the user's own: the Pi 4's with one text replaced."""

    def write(old: str = "", new: str = "") -> Path:
        text = resource("profiles", "raspberry-pi-4.toml").read_text()
        assert old in text
        path = tmp_path / "mine.toml"
        path.write_text(text.replace(old, new, 1))
        return path

    return write


def test_a_users_own_file_is_loaded_by_its_path(own):
    path = own('name = "raspberry-pi-4"', 'name = "mine"')
    assert load(path).name == load(str(path)).name == "mine"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("[prior]", "[prior]\ncolour = 3", "unknown key prior.colour"),
        ("[power]", "[powers]", "powers"),
        ("threads = { value = 4,", "threads = { value = 4.5,", "prior.threads has the value 4.5"),
        ("threads = { value = 4,", "threads = { value = true,", "prior.threads has the value True"),
        ("value = 4.78e9", "value = -1.0", "prior.bytes_per_s has the value -1.0"),
        ("value = 4.78e9", "value = nan", "prior.bytes_per_s has the value nan"),
        ("value = 4.78e9", 'value = "fast"', "prior.bytes_per_s has the value 'fast'"),
        ('unit = "B/s"', 'unit = "MB/s"', "prior.bytes_per_s has the unit 'MB/s'"),
        ('source = "XNNPACK float32 NEON', 'sauce = "XNNPACK float32 NEON', "prior.channel_step has the unknown entry sauce"),
        ('core = { value = "Cortex-A72",', "core = { value = 72,", "cpu.core has the value 72"),
        ("idle_w = { value = 3.0,", "idle_w = { value = 30.0,", "power.active_w"),
        ("by_cpu = true", 'by_cpu = "yes"', "Expected `bool`, got `str` at `match.by_cpu`"),
        ('title = "Raspberry Pi 4 Model B"', "", "title is missing"),
        ('name = "raspberry-pi-4"', 'name = "raspberry-pi-4', "is not TOML"),
    ],
)
def test_a_malformed_file_names_the_file_the_key_and_what_is_expected(own, old, new, key):
    path = own(old, new)
    with pytest.raises(ProfileError) as caught:
        load(path)
    assert str(path) in caught.value.message
    assert key in caught.value.message


def test_a_missing_fact_is_named_with_what_is_expected(tmp_path):
    lines = resource("profiles", "raspberry-pi-4.toml").read_text().splitlines()
    path = tmp_path / "mine.toml"
    path.write_text("\n".join(line for line in lines if not line.startswith("depthwise")))
    with pytest.raises(ProfileError, match=r"prior\.macs_per_s\.depthwise is missing") as caught:
        load(path)
    assert 'unit = "MAC/s"' in (caught.value.remedy or "")


def test_a_number_without_source_is_refused(tmp_path):
    text = resource("profiles", "raspberry-pi-4.toml").read_text()
    line = next(line for line in text.splitlines() if line.startswith("idle_w"))
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(line, 'idle_w = { value = 3.0, unit = "W" }'))
    with pytest.raises(ProfileError, match=r"power\.idle_w has no source"):
        load(path)


@pytest.mark.parametrize("name", ["raspberry-pi-9", "../etc/passwd", ""])
def test_an_unknown_name_lists_the_known_ones(name):
    with pytest.raises(ProfileError, match="unknown profile") as caught:
        load(name)
    assert all(known in (caught.value.remedy or "") for known in SHIPPED)


def test_a_path_that_does_not_exist(tmp_path):
    with pytest.raises(ProfileError, match="does not exist"):
        load(tmp_path / "none.toml")
