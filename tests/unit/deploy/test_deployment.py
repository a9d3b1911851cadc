"""`deploy_bundle` against a real sshd on the loopback; skipped with a reason where there is none."""

from __future__ import annotations

import json
import os
import pwd
import stat
import subprocess
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import paramiko
import pytest
from fake_trt.sshd import Server, run_sshd

from deploy.deployment import deploy_bundle, require_pass
from deploy.remote_folder import make_folders
from deploy.ssh import Access, Board, connect
from edgeq.core.errors import (
    BuildError,
    DeviceError,
    EdgeqError,
    GateFailed,
    InputError,
    MissingDependencyError,
    TargetError,
)
from edgeq.core.files import digest_file

PASS = '{"passed": true, "verdict": "PASS"}'
SCRIPT = """#!/bin/sh
echo "start $*"
echo "to standard error" >&2
%s
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with run_sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_agent(monkeypatch):
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)


@pytest.fixture
def make_bundle(tmp_path):
    def make(body: str = f"echo '{PASS}' > device_report.json", check: str | None = None) -> Path:
        folder = tmp_path / "bundle"
        (folder / "deploy" / "board").mkdir(parents=True, exist_ok=True)
        (folder / "build.sh").write_text(SCRIPT % body)
        (folder / "model.qdq.onnx").write_bytes(bytes(range(256)) * 4000)
        (folder / "deploy/board/x.py").write_text("x = 1\n")
        names = ["build.sh", "deploy/board/x.py", "model.qdq.onnx"]
        if check is not None:
            (folder / "device_check.sh").write_text(f"#!/bin/sh\necho asked\n{check}\n")
            names.append("device_check.sh")
        lines = [f"{digest_file(folder / name)}  {name}\n" for name in names]
        (folder / "SHA256SUMS").write_text("".join(lines))
        return folder

    return make


@pytest.fixture
def deploy(server: Server, tmp_path):
    """Return a function that deploys; what the board says comes into `deploy.said`."""

    def run(bundle: Path, access=None, **changes):
        run.said = []
        options = {"out": tmp_path / "report.json", "folder": str(tmp_path / "a board")}
        options |= {"say": run.said.append, **changes}
        return deploy_bundle(bundle, access or server.access(), **options)

    return run


def test_the_bundle_runs_and_its_report_comes_back(make_bundle, deploy, tmp_path):
    done = deploy(make_bundle(), words=["--rebuild", "two words; $(touch hacked)"])
    assert done.passed
    require_pass(done)
    assert deploy.said == ["start --rebuild two words; $(touch hacked)", "to standard error"]
    assert json.loads((tmp_path / "report.json").read_text())["verdict"] == "PASS"
    assert done.sent_files == 4
    assert os.access(tmp_path / "a board/build.sh", os.X_OK)
    assert not (tmp_path / "a board/hacked").exists()
    assert list((tmp_path / "a board").glob(".*")) == []


def test_lines_come_as_they_are_printed(make_bundle, deploy):
    bundle = make_bundle(f"sleep 0.6; echo later; echo '{PASS}' > device_report.json")
    times = {}
    deploy(bundle, say=lambda line: times.setdefault(line, time.monotonic()))
    assert times["later"] - times["to standard error"] > 0.4


def test_what_is_on_the_board_is_not_sent_again(make_bundle, deploy, tmp_path):
    bundle = make_bundle()
    deploy(bundle)
    assert deploy(bundle).sent_files == 0
    (tmp_path / "a board/model.qdq.onnx").write_bytes(b"damaged")
    assert deploy(bundle).sent_files == 1


def test_a_file_that_was_cut_off_is_continued(make_bundle, deploy, tmp_path):
    bundle = make_bundle()
    data = (bundle / "model.qdq.onnx").read_bytes()
    board = tmp_path / "a board"
    board.mkdir()
    part = board / f".{digest_file(bundle / 'model.qdq.onnx')[:16]}.part"
    part.write_bytes(data[:400_000])

    class Sent:
        def __init__(self):
            self.steps = []

        def start(self, stage, total, unit):
            pass

        def advance(self, n=1, **figures):
            self.steps.append(n)

        def finish(self, summary):
            pass

    sent = Sent()
    deploy(bundle, progress=sent)
    assert 400_000 in sent.steps
    assert (board / "model.qdq.onnx").read_bytes() == data


def test_a_cut_off_file_with_other_bytes_is_found_and_sent_anew_by_the_next_run(
    make_bundle, deploy, tmp_path
):
    bundle = make_bundle()
    board = tmp_path / "a board"
    board.mkdir()
    (board / f".{digest_file(bundle / 'model.qdq.onnx')[:16]}.part").write_bytes(b"other" * 1000)
    with pytest.raises(DeviceError, match=r"model\.qdq\.onnx did not arrive as sent"):
        deploy(bundle)
    assert deploy(bundle).passed


def test_wrong_outputs_are_told_and_end_in_a_missed_gate(make_bundle, deploy):
    verdict = '{"passed": false, "verdict": "FAIL: off"}'
    done = deploy(make_bundle(f"echo '{verdict}' > device_report.json; exit 7"))
    with pytest.raises(GateFailed, match="FAIL: off"):
        require_pass(done)


def test_a_fault_on_the_board_is_raised_as_its_kind_and_its_report_is_kept(
    make_bundle, deploy, tmp_path
):
    fault = {"kind": "TargetError", "what": "another GPU", "why": "w", "mend": "m"}
    report = json.dumps({"passed": False, "verdict": "FAIL", "error": fault})
    with pytest.raises(TargetError, match="on the board: another GPU"):
        deploy(make_bundle(f"echo '{report}' > device_report.json; exit 4"))
    assert (tmp_path / "report.json").exists()


@pytest.mark.parametrize("out", ["/proc/nope/r.json", "folder"])
def test_a_report_that_cannot_be_written_is_told_before_anything_is_sent(
    make_bundle, deploy, tmp_path, out
):
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        deploy(make_bundle(), out=tmp_path / out, is_clean=True)
    assert deploy.said == []


def test_a_report_of_an_earlier_run_does_not_count(make_bundle, deploy):
    deploy(make_bundle())
    with pytest.raises(InputError, match="ended with 3 and left no report"):
        deploy(make_bundle("exit 3"))


def test_clean_leaves_nothing(make_bundle, deploy, tmp_path):
    body = "touch model.plan model.plan.json timing.cache .model.plan.abc.part"
    done = deploy(make_bundle(f"{body}; echo '{PASS}' > device_report.json"), is_clean=True)
    assert done.kept == ()
    assert not (tmp_path / "a board").exists()
    assert (tmp_path / "report.json").exists()


def test_clean_leaves_nothing_after_a_fault_either(make_bundle, deploy, tmp_path):
    with pytest.raises(InputError):
        deploy(make_bundle("exit 3"), is_clean=True)
    assert not (tmp_path / "a board").exists()


def test_clean_leaves_files_of_others_and_names_them(make_bundle, deploy, tmp_path):
    board = tmp_path / "a board"
    board.mkdir()
    (board / "thesis.tex").write_text("x")
    assert deploy(make_bundle(), is_clean=True).kept == ("thesis.tex",)
    assert [path.name for path in board.iterdir()] == ["thesis.tex"]


def test_a_changed_bundle_is_refused_before_anything_is_sent(make_bundle, deploy, tmp_path):
    bundle = make_bundle()
    (bundle / "build.sh").write_text("#!/bin/sh\nrm -rf /\n")
    with pytest.raises(InputError, match=r"build\.sh was changed"):
        deploy(bundle)
    assert not (tmp_path / "a board").exists()


def test_a_lost_connection_is_told_and_the_next_run_goes_on(make_bundle, deploy, server):
    bundle = make_bundle(
        f"[ -f again ] || {{ touch again; sleep 20; }}; echo '{PASS}' > device_report.json"
    )
    timer = threading.Timer(1.5, server.drop_connections)
    timer.start()
    with pytest.raises(DeviceError, match=r"was lost|cannot be used"):
        deploy(bundle)
    timer.join()
    done = deploy(bundle)
    assert (done.passed, done.sent_files) == (True, 0)


def test_a_connection_that_ends_while_a_file_is_opened_is_told(make_bundle, deploy, monkeypatch):
    def ends(*_: object) -> None:
        raise paramiko.SSHException("Server connection dropped: ")

    bundle = make_bundle()
    with monkeypatch.context() as patch:
        patch.setattr(paramiko.SFTPClient, "open", ends)
        with pytest.raises(DeviceError, match="was lost"):
            deploy(bundle, is_clean=True)
    assert deploy(bundle).passed


def test_an_unknown_host_key_is_refused_with_its_fingerprint(make_bundle, deploy, server, tmp_path):
    with pytest.raises(DeviceError, match=r"is not known: ssh-ed25519 SHA256:") as caught:
        deploy(make_bundle(), server.access(folder=tmp_path / "ssh"))
    assert "--accept-new-host-key" in caught.value.mend


def test_a_new_host_key_is_kept_when_asked_for(make_bundle, deploy, server, tmp_path):
    folder = tmp_path / "ssh"
    assert deploy(make_bundle(), server.access(folder=folder, accepts_new=True)).passed
    assert f"[127.0.0.1]:{server.port} ssh-ed25519" in (folder / "known_hosts").read_text()
    assert deploy(make_bundle(), server.access(folder=folder)).passed


def test_a_new_host_key_has_a_line_of_its_own_behind_one_without_an_end(
    make_bundle, deploy, server, tmp_path
):
    folder = tmp_path / "ssh"
    folder.mkdir()
    other = "other ssh-ed25519 " + (server.folder / "user.pub").read_text().split()[1]
    (folder / "known_hosts").write_text(other)
    assert deploy(make_bundle(), server.access(folder=folder, accepts_new=True)).passed
    assert (folder / "known_hosts").read_text().splitlines()[0] == other
    assert deploy(make_bundle(), server.access(folder=folder)).passed


def test_a_new_host_key_that_cannot_be_kept_is_told_of_its_file(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="ssh's known_hosts cannot be used"):
        connect(server.access(folder=tmp_path / "file", accepts_new=True))


def test_a_damaged_key_of_the_config_is_told_as_such(server, tmp_path, monkeypatch):
    """What paramiko raises of some; which it is depends on where the file was cut off."""
    import paramiko

    def fail(*_, **__):
        raise AssertionError("unpadded")

    (tmp_path / "known_hosts").write_text((server.folder / "known_hosts").read_text())
    (tmp_path / "config").write_text(f"IdentityFile {server.folder}/user\n")
    monkeypatch.setattr(paramiko.SSHClient, "_key_from_filepath", fail)
    with pytest.raises(InputError, match="a private key of ssh's is damaged: unpadded"):
        connect(server.access(identity=None, folder=tmp_path))


def test_a_jump_that_is_none_is_none(make_bundle, deploy, server, tmp_path):
    (tmp_path / "known_hosts").write_text((server.folder / "known_hosts").read_text())
    (tmp_path / "config").write_text("ProxyJump none\n")
    assert deploy(make_bundle(), server.access(folder=tmp_path)).passed


def test_a_changed_host_key_is_refused_even_when_new_ones_are_taken(
    make_bundle, deploy, server, tmp_path
):
    folder = tmp_path / "ssh"
    folder.mkdir()
    other = (server.folder / "user.pub").read_text().split()[1]
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{server.port} ssh-ed25519 {other}\n")
    with pytest.raises(DeviceError, match="is not the known one"):
        deploy(make_bundle(), server.access(folder=folder, accepts_new=True))


def test_a_key_that_the_board_does_not_know_is_refused(make_bundle, deploy, server):
    with pytest.raises(DeviceError, match="lets nobody in"):
        deploy(make_bundle(), server.access(identity=server.folder / "host"))


@pytest.mark.parametrize("name", ["none", "folder", "text", "user.pub", "cut", "bytes"])
def test_an_identity_that_is_no_private_key_is_told_before_anything_is_sent(server, tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("no key\n")
    (tmp_path / "user.pub").write_bytes((server.folder / "user.pub").read_bytes())
    (tmp_path / "cut").write_bytes((server.folder / "user").read_bytes()[:200])
    (tmp_path / "bytes").write_bytes(b"\x00\xff")
    with pytest.raises(InputError, match="--identity cannot be used") as caught:
        connect(server.access(identity=tmp_path / name))
    assert caught.value.path == str(tmp_path / name)


@pytest.mark.parametrize("kind", ["rsa", "ecdsa", "ed25519"])
@pytest.mark.parametrize("phrase", ["", "secret"])
def test_a_private_key_of_any_kind_is_tried(server, tmp_path, kind, phrase):
    words = ["ssh-keygen", "-q", "-t", kind, "-N", phrase, "-f", str(tmp_path / "key")]
    subprocess.run(words, check=True)
    told = "lets nobody in" if not phrase else "has a passphrase"
    with pytest.raises(EdgeqError, match=told):
        connect(server.access(identity=tmp_path / "key"))


def test_a_name_and_a_key_of_the_ssh_config_are_used(make_bundle, deploy, server, tmp_path):
    folder = tmp_path / "ssh"
    folder.mkdir()
    (folder / "known_hosts").write_text((server.folder / "known_hosts").read_text())
    (folder / "config").write_text(
        f"Host orin\n  HostName 127.0.0.1\n  Port {server.port}\n  IdentityFile {server.folder}/user\n"
    )
    access = server.access(address="orin", port=None, identity=None, folder=folder)
    assert deploy(make_bundle(), access).passed


CANONICAL = b"CanonicalizeHostname yes\nCanonicalDomains x.invalid\nCanonicalizeFallbackLocal no\n"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("config", b"Port abc", "Port abc is none"),
        ("config", b"Port 70000", "Port 70000 is none"),
        ("config", b"Match foo", "Match"),
        ("config", b'Host "a', "Unparsable host"),
        ("config", b'ProxyCommand "nc %h %p', "No closing quotation"),
        ("config", b"ProxyCommand /nowhere/nc", "/nowhere/nc"),
        ("config", b"# caf\xe9", "can't decode byte 0xe9"),
        ("config", CANONICAL, "in none of CanonicalDomains"),
        ("known_hosts", b"# caf\xe9", "can't decode byte 0xe9"),
        ("known_hosts", b"board ssh-ed25519 AAA", "board ssh-ed25519 AAA"),
        ("known_hosts", b"@cert-authority * ssh-ed25519 AAAA", "@cert-authority"),
    ],
)
def test_a_file_of_ssh_that_cannot_be_read_is_named(tmp_path, name, content, told):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"ssh's {name} cannot be used") as caught:
        connect(Access(address="no-such-board", folder=tmp_path))
    assert told in caught.value.what
    assert caught.value.path == str(tmp_path / name)


@pytest.mark.parametrize("host", ["a..b", "a" * 64])
def test_a_name_that_no_host_can_have_is_refused(tmp_path, host):
    with pytest.raises(InputError, match="is no name of a host"):
        connect(Access(address=host, folder=tmp_path))


def test_a_board_that_is_off_is_told(make_bundle, deploy, server):
    with pytest.raises(DeviceError, match="cannot be reached"):
        deploy(make_bundle(), server.access(port=1))


@pytest.mark.parametrize("address", ["", "-oProxyCommand=x", "a@b c", "a;b", "@b", "a@-b"])
def test_an_address_that_is_none_is_refused(make_bundle, deploy, server, address):
    with pytest.raises(InputError, match="is no address"):
        deploy(make_bundle(), server.access(address=address))


@pytest.mark.parametrize("folder", ["", "/", "~", "~other/x", "a\nb"])
def test_a_folder_that_cannot_be_one_of_its_own_is_refused(make_bundle, deploy, folder):
    with pytest.raises(InputError, match="--remote-dir"):
        deploy(make_bundle(), folder=folder)


@pytest.mark.parametrize("folder", [".", "..", "./", "new/..", pwd.getpwuid(os.getuid()).pw_dir])
def test_the_home_folder_and_those_above_it_are_refused(make_bundle, deploy, folder):
    with pytest.raises(InputError, match="the home folder is"):
        deploy(make_bundle(), folder=folder, is_clean=True)
    assert deploy.said == []


def test_a_folder_that_cannot_be_written_is_told(make_bundle, deploy, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DeviceError, match="cannot be used"):
        deploy(make_bundle(), folder=str(tmp_path / "file" / "x"))


def test_a_second_run_in_a_folder_is_refused_and_leaves_the_first_one_alone(
    make_bundle, deploy, tmp_path
):
    bundle = make_bundle(
        f"while [ ! -f go ]; do sleep 0.05; done; echo '{PASS}' > device_report.json"
    )
    board, ended = tmp_path / "a board", []
    first = threading.Thread(target=lambda: ended.append(deploy(bundle, say=lambda line: None)))
    first.start()
    try:
        while not (board / "build.sh").exists():
            time.sleep(0.02)
        with pytest.raises(DeviceError, match="another `edgeq deploy` is at work") as caught:
            deploy(bundle, is_clean=True)
        assert "--remote-dir" in caught.value.mend
    finally:
        (board / "go").touch()
        first.join()
    assert [done.passed for done in ended] == [True]
    assert deploy(bundle).passed


def test_a_board_without_flock_is_told_and_used(make_bundle, deploy, monkeypatch, caplog):
    def without(self, words, *, folder):
        return nullcontext(127)

    monkeypatch.setattr(Board, "attached", without)
    assert deploy(make_bundle()).passed
    assert "has no flock (127)" in caplog.text


ANSWERED = "echo '{\"probes\": {}}' > device_check.json"


def test_tensorrt_is_asked_once_before_the_engine_is_built(make_bundle, deploy, tmp_path):
    bundle = make_bundle(check=ANSWERED)
    deploy(bundle)
    assert deploy.said[:2] == ["asked", "start "]
    assert json.loads((tmp_path / "device_check.json").read_text()) == {"probes": {}}
    deploy(bundle)
    assert "asked" not in deploy.said
    deploy(bundle, words=["--rebuild"])
    assert "asked" in deploy.said


def test_nothing_is_asked_of_tensorrt_where_that_is_not_wanted(make_bundle, deploy):
    assert deploy(make_bundle(check="exit 6"), is_checked=False).passed
    assert "asked" not in deploy.said


def test_a_board_that_cannot_answer_stops_the_run_with_its_reason(make_bundle, deploy, tmp_path):
    error = {"kind": "MissingDependencyError", "what": "no TensorRT", "mend": "install JetPack"}
    check = f"echo '{json.dumps({'error': error})}' > device_check.json; exit 5"
    for _ in range(2):  # the second run does not take that for an answer
        with pytest.raises(MissingDependencyError, match="on the board: no TensorRT") as caught:
            deploy(make_bundle(check=check))
        assert caught.value.mend == "install JetPack"
    assert not any(line.startswith("start") for line in deploy.said)
    assert (tmp_path / "device_check.json").exists()


def test_a_question_that_ends_tensorrt_is_named(make_bundle, deploy):
    check = 'echo \'{"running": "fp8"}\' > device_check.json; exit 139'
    with pytest.raises(BuildError, match="ended with 139 at the question 'fp8'") as caught:
        deploy(make_bundle(check=check))
    assert "--no-device-check" in caught.value.mend


def test_a_folder_that_another_run_makes_at_the_same_time_is_no_fault():
    made = []

    def stat_of(path):
        if not made:
            raise FileNotFoundError
        return SimpleNamespace(st_mode=stat.S_IFDIR)

    def mkdir(path):
        made.append(path)  # by the other run, a moment before ours
        raise OSError("Failure")

    make_folders(SimpleNamespace(files=SimpleNamespace(stat=stat_of, mkdir=mkdir)), "place")
    assert made == ["place"]


def test_a_folder_that_cannot_be_made_is_told():
    def refuse(path):
        raise FileNotFoundError

    def mkdir(path):
        raise OSError("Failure")

    board = SimpleNamespace(files=SimpleNamespace(stat=refuse, mkdir=mkdir))
    with pytest.raises(OSError, match="Failure"):
        make_folders(board, "place")
