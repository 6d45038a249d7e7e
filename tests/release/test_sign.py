"""SSH signatures: ours and ssh-keygen's are the same, and both refuse what is not signed."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from release_kit import Kit, make_key

from edgeprune.cli import main
from edgeprune.errors import BundleError, InputError, SignatureError
from edgeprune.release import NAMESPACE, Bundle
from edgeprune.release.bundle.sign import sign
from edgeprune.release.bundle.signers import matches, read_signers
from edgeprune.release.bundle.sshsig import Signature, armour
from edgeprune.release.bundle.verify import Verified, verify

KINDS = [("ed25519",), ("ecdsa", "-b", "256"), ("ecdsa", "-b", "384"), ("ecdsa", "-b", "521"), ("rsa", "-b", "2048")]
DOCUMENT = Path(__file__).parents[2] / "docs" / "release.md"
MESSAGE = b"a manifest\n"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a key of a kind, or a further one, once."""
    folder = tmp_path_factory.mktemp("keys")

    def make(*kind: str, name: str = "") -> Path:
        path = folder / (name or "-".join(kind))
        if not path.exists():
            subprocess.run(["ssh-keygen", "-q", "-t", *kind, "-N", "", "-C", path.name, "-f", str(path)], check=True)
        return path

    return make


@pytest.fixture
def kit(tmp_path: Path) -> Kit:
    return Kit(tmp_path)


def public(key: Path) -> str:
    return " ".join(Path(f"{key}.pub").read_text().split()[:2])


def ssh_sign(key: Path, message: bytes, namespace: str = NAMESPACE, *more: str) -> bytes:
    command = ["ssh-keygen", "-q", "-Y", "sign", "-n", namespace, *more, "-f", str(key)]
    return subprocess.run(command, input=message, capture_output=True, check=True).stdout


def ssh_accepts(folder: Path, allowed: Path, principal: str, message: bytes, armoured: bytes, namespace: str = NAMESPACE) -> bool:
    (folder / "message.sig").write_bytes(armoured)
    command = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", principal, "-n", namespace, "-s", str(folder / "message.sig")]
    return subprocess.run(command, input=message, capture_output=True).returncode == 0


def we_accept(armoured: bytes, message: bytes, namespace: str = NAMESPACE) -> bool:
    try:
        Signature.parse(armoured, "it").check(message, namespace, "it")
    except SignatureError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
@pytest.mark.parametrize("hashed", ["sha256", "sha512"])
def test_what_ssh_keygen_signs_is_accepted_and_nothing_else(keys, kind, hashed):
    armoured = ssh_sign(keys(*kind), MESSAGE, NAMESPACE, "-O", f"hashalg={hashed}")
    signature = Signature.parse(armoured, "it")
    listed = subprocess.run(["ssh-keygen", "-l", "-f", f"{keys(*kind)}.pub"], capture_output=True, text=True, check=True).stdout
    assert (signature.hash_name, signature.namespace) == (hashed, NAMESPACE)
    assert signature.key.fingerprint == listed.split()[1]
    assert signature.key.text == public(keys(*kind))
    assert we_accept(armoured, MESSAGE)
    assert not we_accept(armoured, MESSAGE + b" ")
    assert not we_accept(armoured, b"")
    assert not we_accept(armoured, MESSAGE, "file")


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_a_changed_signature_is_refused_by_us_as_by_ssh_keygen(keys, kind, tmp_path):
    """A bit in every byte of the signature's content: neither takes it for one by this key."""
    armoured, key = ssh_sign(keys(*kind), MESSAGE), keys(*kind)
    (tmp_path / "allowed").write_text(f"me {public(key)}\n")
    content, dice = Signature.parse(armoured, "it"), random.Random(1)
    raw = unarmoured(armoured)
    for place in range(len(raw)):
        changed = armour(raw[:place] + bytes([raw[place] ^ (1 << dice.randrange(8))]) + raw[place + 1 :])
        assert not we_accept(changed, MESSAGE), place
    for place in dice.sample(range(len(raw)), 6):
        changed = armour(raw[:place] + bytes([raw[place] ^ 1]) + raw[place + 1 :])
        assert not ssh_accepts(tmp_path, tmp_path / "allowed", "me", MESSAGE, changed), place
    assert ssh_accepts(tmp_path, tmp_path / "allowed", "me", MESSAGE, armoured)
    assert content.key.type == public(key).split()[0]


def unarmoured(armoured: bytes) -> bytes:
    import base64

    return base64.b64decode(b"".join(armoured.splitlines()[1:-1]))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text.replace(b"SSH SIGNATURE", b"PGP SIGNATURE"), "not an armoured SSH signature"),
        (lambda text: text.replace(b"\n", b"\r\n"), "not an armoured SSH signature"),
        (lambda text: b"\n" + text, "not an armoured SSH signature"),
        (lambda text: text + b"\n", "not an armoured SSH signature"),
        (lambda text: text.replace(b"U1NI", b"U1N\nI"), "not in the form that ssh-keygen writes"),
        (lambda text: armour(unarmoured(text) + b"\0"), "1 bytes too many"),
        (lambda text: armour(unarmoured(text)[:-1]), "is cut off"),
        (lambda text: armour(b"SSHSIG\0\0\0\2" + unarmoured(text)[10:]), "not an SSH signature of version 1"),
        (lambda text: armour(unarmoured(text).replace(b"sha512", b"sha384")), "uses the hash b'sha384'"),
        (lambda text: armour(b""), "is cut off"),
        (lambda text: b"", "not an armoured SSH signature"),
    ],
)  # fmt: skip
def test_a_malformed_signature_says_why(keys, change, said):
    with pytest.raises(SignatureError, match=said):
        Signature.parse(change(ssh_sign(keys("ed25519"), MESSAGE)), "it")


def test_a_key_of_another_type_is_not_accepted(keys):
    """A security key's signature has more in it than we check."""
    raw = unarmoured(ssh_sign(keys("ed25519"), MESSAGE))
    strange = raw.replace(b"\0\0\0\x0bssh-ed25519", b"\0\0\0\x0bssh-ed25518")
    with pytest.raises(SignatureError, match="a key of type 'ssh-ed25518'"):
        Signature.parse(armour(strange), "it").check(MESSAGE, NAMESPACE, "it")


def test_a_short_rsa_key_is_not_accepted(keys):
    armoured = ssh_sign(keys("rsa", "-b", "1024", name="short"), MESSAGE)
    with pytest.raises(SignatureError, match="an RSA key of 1024 bits"):
        Signature.parse(armoured, "it").check(MESSAGE, NAMESPACE, "it")


# bundles


def check(path: Path, allowed: Path, threshold: int | None = None, now: datetime | None = None) -> Verified:
    with Bundle.open(path) as bundle:
        return verify(bundle, read_signers(allowed), threshold, now)


def allow(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def check_release(folder: Path, bundle: Path, allowed: Path, principal: str) -> subprocess.CompletedProcess[str]:
    """The script of the documentation, which a device without Python uses."""
    (folder / "check.sh").write_text(re.search(r"```sh\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)[1])
    command = ["sh", str(folder / "check.sh"), str(bundle), str(allowed), principal, str(folder / "out")]
    return subprocess.run(command, capture_output=True, text=True)


def test_a_device_without_python_checks_a_bundle(kit, keys, tmp_path):
    path = kit.bundle("1.0.0", 1, expires="2999-01-01T00:00:00Z")
    sign(path, keys("ed25519"))  # another signer, whom the device does not know
    done = check_release(tmp_path, path, kit.allowed, "release@example.org")
    assert (done.returncode, done.stdout.count('Good "edgeprune-release" signature for release@example.org')) == (0, 1), done.stderr
    with Bundle.open(path) as bundle:
        for sha256 in bundle.manifest.objects():
            assert (tmp_path / "out" / "objects" / sha256).read_bytes() == bundle.read(sha256)


@pytest.mark.parametrize("what", ["content", "manifest", "missing", "stranger", "expired"])
def test_a_device_without_python_refuses_a_bundle_that_is_not_right(kit, tmp_path, what):
    path = kit.bundle("1.0.0", 1, expires="2026-01-02T00:00:00Z" if what == "expired" else None)
    content, principal = path.read_bytes(), "release@example.org"
    assert what == "expired" or check_release(tmp_path, path, kit.allowed, principal).returncode == 0
    changes = {
        "content": (b"shared by all", b"shared by NIL"),
        "manifest": (b'"version": "1.0.0"', b'"version": "1.0.1"'),
        "missing": (b"objects/", b"OBJECTS/"),
    }
    path.write_bytes(content.replace(*changes[what]) if what in changes else content)
    allowed = Path(f"{make_key(tmp_path / 'stranger')}.allowed") if what == "stranger" else kit.allowed
    assert check_release(tmp_path, path, allowed, principal).returncode != 0


def test_signing_again_replaces_and_by_another_adds(kit, keys, tmp_path):
    path, other = kit.bundle("1.0.0", 1), keys("ed25519")
    before = path.read_bytes()
    sign(path, kit.key)
    assert path.read_bytes() == before  # ed25519 is deterministic
    sign(path, other, tmp_path / "both.epb")
    assert path.read_bytes() == before
    with Bundle.open(path) as one, Bundle.open(tmp_path / "both.epb") as both:
        assert len(one.signatures) == 1
        assert len(both.signatures) == 2
        assert both.identity == one.identity


@pytest.mark.parametrize("kind", KINDS, ids=" ".join)
def test_keys_of_all_kinds_sign(kit, keys, kind, tmp_path):
    path = kit.bundle("1.0.0", 1, signed=False)
    key = sign(path, keys(*kind))
    assert check(path, allow(tmp_path / "allowed", f"me {public(keys(*kind))}")).keys == (key.fingerprint,)


def test_a_key_is_changed_by_signing_with_both(kit, keys, tmp_path):
    """Devices that know the old key only, and those that know the new one only, accept the same bundle."""
    path, old, new = kit.bundle("1.0.0", 1, signed=False), keys("ed25519"), keys("ed25519", name="new")
    sign(path, old)
    sign(path, new)
    for key in (old, new):
        found = check(path, allow(tmp_path / "allowed", f"release@example.org {public(key)}"))
        assert found.signers == ("release@example.org",)
        assert (len(found.keys), len(found.unknown)) == (1, 1)
    both = allow(tmp_path / "allowed", f"release@example.org {public(old)}", f"release@example.org {public(new)}")
    found = check(path, both)
    assert (found.signers, len(found.keys)) == (("release@example.org",), 2)
    with pytest.raises(SignatureError, match=r"needs 2 allowed signers, and allowed and signed: release@example\.org"):
        check(path, both, threshold=2)  # two keys of one signer are not two signers


def test_a_threshold_asks_for_so_many_signers(kit, keys, tmp_path):
    path, names = kit.bundle("1.0.0", 1, signed=False), ("ada", "bob", "eve")
    every = [keys("ed25519", name=name) for name in names]
    allowed = allow(tmp_path / "allowed", *(f"{key.name}@example.org {public(key)}" for key in every[:2]))
    sign(path, every[0])
    sign(path, every[2])  # not allowed
    assert check(path, allowed, threshold=1).signers == ("ada@example.org",)
    with pytest.raises(SignatureError, match=r"needs 2 allowed signers, and allowed and signed: ada@.*; not counted: unknown key SHA256:"):
        check(path, allowed, threshold=2)
    sign(path, every[1])
    assert check(path, allowed, threshold=2).signers == ("ada@example.org", "bob@example.org")
    with pytest.raises(InputError, match="threshold 0"):
        check(path, allowed, threshold=0)


def test_an_unknown_key_and_another_namespace_are_refused(kit, keys, tmp_path):
    path = kit.bundle("1.0.0", 1)
    with pytest.raises(SignatureError, match="no allowed signer has signed; not counted: unknown key SHA256:"):
        check(path, allow(tmp_path / "allowed", f"me {public(keys('ed25519'))}"))
    line = kit.allowed.read_text().replace("edgeprune-release", "git")
    with pytest.raises(SignatureError, match="its key is allowed for git only"):
        check(path, allow(tmp_path / "allowed", line))
    with Bundle.open(path) as bundle:
        (short,) = bundle.signatures
        forged = ssh_sign(kit.key, bundle.manifest_bytes, "file")
        from edgeprune.release.bundle.file import with_signatures

        with_signatures(bundle, {short: forged}, tmp_path / "other.epb")
    with pytest.raises(SignatureError, match="was made for 'file', not for 'edgeprune-release'"):
        check(tmp_path / "other.epb", kit.allowed)


def test_a_signature_under_another_keys_name_is_refused(kit, tmp_path):
    from edgeprune.release.bundle.file import with_signatures

    with Bundle.open(kit.bundle("1.0.0", 1)) as bundle:
        with_signatures(bundle, {"0" * 16: next(iter(bundle.signatures.values()))}, tmp_path / "other.epb")
    with pytest.raises(SignatureError, match=r"0000\.sig is by the key"):
        check(tmp_path / "other.epb", kit.allowed)


@pytest.mark.parametrize(
    ("options", "now", "said"),
    [
        ('valid-after="20260601Z"', "2026-05-31", "valid from 2026-06-01"),
        ('valid-after="20260601Z"', "2026-06-01", None),
        ('valid-before="20260601Z"', "2026-06-01", None),
        ('valid-before="20260601Z"', "2026-06-02", "was valid until 2026-06-01"),
        ('namespaces="git,edgeprune-*",valid-after="202601010000Z",valid-before="20260601123000Z"', "2026-03-01", None),
        ('NAMESPACES="git"', "2026-03-01", "allowed for git only"),
        ('namespaces="*,!edgeprune-release"', "2026-03-01", "allowed for"),
    ],
)
def test_options_of_a_signer_are_kept_and_ssh_keygen_agrees(kit, keys, tmp_path, options, now, said):
    path, key = kit.bundle("1.0.0", 1, signed=False), keys("ed25519")
    sign(path, key)
    allowed = allow(tmp_path / "allowed", "# who may", "", f"me,you {options} {public(key)} a comment")
    moment = datetime.strptime(now, "%Y-%m-%d").replace(tzinfo=UTC)
    if said is None:
        assert check(path, allowed, now=moment).signers == ("me,you",)
    else:
        with pytest.raises(SignatureError, match=said):
            check(path, allowed, now=moment)
    with Bundle.open(path) as bundle:
        (tmp_path / "s.sig").write_bytes(next(iter(bundle.signatures.values())))
        command = ["ssh-keygen", "-Y", "verify", "-f", str(allowed), "-I", "me", "-n", NAMESPACE, "-s", str(tmp_path / "s.sig")]
        command += ["-O", f"verify-time={moment:%Y%m%d%H%M%S}"]
        done = subprocess.run(command, input=bundle.manifest_bytes, capture_output=True, env=os.environ | {"TZ": "UTC"})
    assert (done.returncode == 0) == (said is None)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("me cert-authority KEY", "certificate authority"),
        ('me namespaces="x",cert-authority KEY', "certificate authority"),
        ('me verify-required KEY', "unknown option 'verify-required'"),
        ('me namespaces KEY', "unknown option 'namespaces'"),
        ('me namespaces="a",namespaces="b" KEY', "the option namespaces twice"),
        ('me valid-after="tomorrow" KEY', "the time 'tomorrow'"),
        ('me valid-after="20261399Z" KEY', "the time '20261399Z'"),
        ('me valid-before="20270101" KEY', "the time '20270101'"),  # in which time zone?
        ("me KEY a comment\x0cevil@example.org KEY", "invisible characters"),  # one line for OpenSSH, two for a careless reader
        ("me KEY a comment\u2028evil@example.org KEY", "invisible characters"),
        ("me KEY a comment\revil@example.org KEY", "invisible characters"),
        ("me", "not a line of allowed signers"),
        ("me ssh-ed25519", "not a line of allowed signers"),
        ("me ssh-ed25519 AAAA", "is cut off|malformed"),
        ("me ssh-rsa KEYDATA", "says ssh-rsa, but its key is of type ssh-ed25519"),
        ("# nothing", "lists no signer"),
    ],
)  # fmt: skip
def test_a_line_that_is_not_understood_is_refused_by_number(keys, tmp_path, line, said):
    kind, data = public(keys("ed25519")).split()
    allowed = allow(tmp_path / "allowed", line.replace("KEYDATA", data).replace("KEY", f"{kind} {data}"))
    with pytest.raises(SignatureError, match=said) as raised:
        read_signers(allowed)
    assert str(allowed) in raised.value.message


def test_a_file_of_signers_that_cannot_be_read_says_so(tmp_path):
    with pytest.raises(SignatureError, match="cannot be read: No such file"):
        read_signers(tmp_path / "none")


def test_patterns_are_openssh_s():
    assert matches("edgeprune-release", "edgeprune-*")
    assert matches("edgeprune-release", "git,edgeprune-releas?")
    assert not matches("edgeprune-release", "edgeprune")
    assert not matches("edgeprune-release", "!edgeprune-release,*")
    assert not matches("edgeprune-release", "e.*")


def test_a_damaged_bundle_is_not_signed(kit):
    path = kit.bundle("1.0.0", 1, signed=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"shared by all", b"shared by NIL", 1))
    with pytest.raises(BundleError, match="the content of LICENSE is not what the manifest says"):
        sign(path, kit.key)


def test_the_agent_signs_for_a_public_key(kit, keys, tmp_path, monkeypatch):
    if shutil.which("ssh-agent") is None:
        pytest.skip("there is no ssh-agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", str(tmp_path / "agent")], stdout=subprocess.DEVNULL)
    try:
        monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "agent"))
        while not (tmp_path / "agent").exists():
            assert agent.poll() is None
        key = keys("ed25519", name="held")
        subprocess.run(["ssh-add", "-q", str(key)], check=True, capture_output=True)
        (tmp_path / "held.pub").write_text(Path(f"{key}.pub").read_text())
        path = kit.bundle("1.0.0", 1, signed=False)
        assert sign(path, tmp_path / "held.pub").text == public(key)
    finally:
        agent.terminate()
        agent.wait()


@pytest.mark.parametrize("what", ["none", "encrypted", "rubbish", "no tool"])
def test_a_key_that_cannot_sign_says_why(kit, tmp_path, monkeypatch, what):
    path, key = kit.bundle("1.0.0", 1, signed=False), tmp_path / "key"
    if what == "encrypted":
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "secret", "-f", str(key)], check=True)
        monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
        monkeypatch.setenv("SSH_ASKPASS", "/bin/false")
    elif what != "none":
        make_key(key) if what == "no tool" else key.write_text("rubbish")
    if what == "no tool":
        monkeypatch.setenv("PATH", str(tmp_path))
    said = {"none": "does not exist", "no tool": "there is no ssh-keygen"}.get(what, "cannot sign: ")
    with pytest.raises(SignatureError, match=said):
        sign(path, key)
    with Bundle.open(path) as bundle:
        assert bundle.signatures == {}


def test_the_command_prints_the_line_that_devices_need(kit, tmp_path, capsys):
    path = kit.bundle("1.0.0", 1, signed=False)
    assert main(["release", "sign", str(path), "--key", str(kit.key)]) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert check(path, allow(tmp_path / "allowed", line)).signers == ("you@example.org",)
