"""The units as systemd's own tools see them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.programs import find

SYSTEMD = Path(__file__).parent.parent.parent / "systemd"
UNITS = ("sitewarden-guard.service", "sitewarden.service")
STEPS_SINCE = 254
VENV = Path(sys.executable).parent


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_verify_accepts_both(tmp_path: Path) -> None:
    for name in UNITS:
        text = (SYSTEMD / name).read_text()
        changed = re.sub(r"^(ExecStart=)/opt/sitewarden/bin", rf"\1{VENV}", text, flags=re.M)
        assert changed != text
        (tmp_path / name).write_text(changed)
    done = _run(
        find("systemd-analyze"), "verify", "--man=no", *(str(tmp_path / name) for name in UNITS)
    )
    ours = [line for line in done.stderr.splitlines() if "sitewarden" in line]
    assert (done.returncode, ours) == (0, [])


@pytest.mark.parametrize("name", UNITS)
def test_it_is_started_again_for_ever(name: str) -> None:
    text = (SYSTEMD / name).read_text()
    head, _, service = text.partition("[Service]")
    assert re.findall(r"^StartLimit\w+=.*$", text, re.M) == ["StartLimitIntervalSec=0"]
    assert "StartLimitIntervalSec=0" in head  # elsewhere it is unknown
    assert re.findall(r"^Restart=(.*)$", service, re.M) == ["on-failure"]


def test_the_growing_pause_of_a_newer_systemd_is_taken_or_passed_over(tmp_path: Path) -> None:
    name = "sitewarden.service"
    text = (SYSTEMD / name).read_text()
    (tmp_path / name).write_text(text.replace("/opt/sitewarden/bin", str(VENV)))
    steps = tmp_path / f"{name}.d" / "restart-steps.conf"
    steps.parent.mkdir()
    steps.write_text((SYSTEMD / steps.name).read_text())
    done = _run(find("systemd-analyze"), "verify", "--man=no", str(tmp_path / name))
    version = int(_run(find("systemd-analyze"), "--version").stdout.split()[1])
    told = [line for line in done.stderr.splitlines() if steps.name in line]
    keys = [] if version >= STEPS_SINCE else ["RestartSteps", "RestartMaxDelaySec"]
    assert re.findall(r"Unknown key(?: name)? '(\w+)'", "\n".join(told)) == keys, done.stderr
    assert (done.returncode, len(told)) == (0, len(keys))


@pytest.mark.parametrize("name", UNITS)
def test_security_is_below_the_threshold(name: str) -> None:
    done = _run(
        find("systemd-analyze"), "security", "--offline=yes", "--threshold=20", str(SYSTEMD / name)
    )
    assert done.returncode == 0, done.stdout


def _calls(names: list[str]) -> set[str]:
    """System calls by name, of sets too."""
    found: set[str] = set()
    for name in names:
        if not name.startswith("@"):
            found.add(name)
            continue
        told = _run(find("systemd-analyze"), "syscall-filter", name).stdout.splitlines()[1:]
        words = [line.strip() for line in told]
        found |= _calls([word for word in words if word and not word.startswith("#")])
    return found


@pytest.mark.parametrize("name", UNITS)
def test_what_it_calls_is_let_through_and_no_clock_is_set(name: str) -> None:
    """As systemd.exec(5) says of SystemCallFilter: in order, the last word counts."""
    text = (SYSTEMD / name).read_text()
    allowed: set[str] = set()
    for line in re.findall(r"^SystemCallFilter=(.*)$", text, re.M):
        calls = _calls(line.removeprefix("~").split())
        allowed = allowed - calls if line.startswith("~") else allowed | calls
    needed = {"chown", "fchown", "fchownat", "adjtimex", "clock_adjtime", "mlock", "statfs", "link"}
    if "guard" in name:
        needed |= {"sched_setscheduler", "sched_setaffinity"}
    assert needed <= allowed
    assert not allowed & {"clock_settime", "settimeofday", "mount", "init_module", "ptrace"}
    assert not re.search(
        r"^ProtectClock=yes", text, re.M
    )  # it takes reading the clock's state, too


@pytest.mark.parametrize("name", UNITS)
def test_neither_unit_requires_the_other(name: str) -> None:
    text = (SYSTEMD / name).read_text()
    assert not re.search(r"^(Requires|BindsTo|PartOf|Requisite|RuntimeDirectory)=", text, re.M)


def test_users_and_directories_are_made(tmp_path: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("changing owners needs root")
    (tmp_path / "etc").mkdir()
    root = f"--root={tmp_path}"
    done = _run(find("systemd-sysusers"), root, str(SYSTEMD / "sitewarden.sysusers"))
    assert done.returncode == 0, done.stderr
    done = _run(find("systemd-tmpfiles"), "--create", root, str(SYSTEMD / "sitewarden.tmpfiles"))
    assert done.returncode == 0, done.stderr
    ids = {
        line.split(":")[0]: int(line.split(":")[2])
        for line in (tmp_path / "etc/passwd").read_text().splitlines()
    }
    runtime = (tmp_path / "run/sitewarden").stat()
    assert runtime.st_uid == ids["sitewarden-guard"]
    assert runtime.st_mode & 0o7777 == 0o1771
    guard = (tmp_path / "var/lib/sitewarden/guard").stat()
    assert guard.st_uid == ids["sitewarden-guard"]
    assert guard.st_mode & 0o7777 == 0o750
