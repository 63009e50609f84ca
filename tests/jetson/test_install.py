"""jetson/install.sh on made-up boards: what it would do, what it does, what it refuses and why.

The programs of the system are scripts in the tree that write down how they are called. So nothing
here says that the real ones do what they are asked to: not verified on hardware.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.jetson import trees

SOURCE = Path(__file__).resolve().parents[2]
INSTALL = SOURCE / "jetson/install.sh"
SHELL = shutil.which("dash") or "sh"

_RECORDS = """#!/bin/sh
echo "$(basename "$0") $*" | sed "s|{root}||g" >>{root}/calls
"""

_PYTHON = """#!/bin/sh
root={root}
case "$*" in
*version_info*) echo {version}; exit ;;
*ensurepip*) exit {no_venv} ;;
*"import tensorrt"*) {tensorrt}; exit ;;
esac
echo "python $*" | sed "s|$root||g" >>$root/calls
case "$*" in
"-m venv"*)
    for last; do :; done
    mkdir -p "$last/bin"
    echo "include-system-site-packages = true" >"$last/pyvenv.cfg"
    cp "$0" "$last/bin/python"
    ;;
*"pip install"*) cp $root/usr/bin/edged.stub $root/opt/edged/bin/edged ;;
esac
"""

_ACCOUNTS = _RECORDS + 'echo "edged:x:999:999::/var/lib/edged:" >>{root}/etc/passwd\n'
_RUNUSER = _RECORDS + 'shift 3\nexec "$@"\n'
_DOCTOR = _RECORDS + "exit {status}\n"


def script(root: Path, name: str, text: str, **values: object) -> None:
    path = root / "usr/bin" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.format(root=root, **values))
    path.chmod(0o755)


def machine(
    root: Path,
    board: str = "orin-nano",
    jetpack: str = "6.2",
    *,
    python: str | None = None,
    tensorrt: bool = True,
    no_venv: int = 0,
    doctor: int = 0,
) -> Path:
    """A board with its files and programs."""
    trees.plant(root, trees.files(board, jetpack))
    version = python or trees.RELEASES[jetpack][2]
    says = "echo 10.3.0" if tensorrt else "exit 1"
    script(root, "python3", _PYTHON, version=version, tensorrt=says, no_venv=no_venv)
    for name in ("usermod", "chown", "systemctl", "apt-get"):
        script(root, name, _RECORDS)
    script(root, "systemd-sysusers", _ACCOUNTS)
    script(root, "runuser", _RUNUSER)
    script(root, "edged.stub", _DOCTOR, status=doctor)
    return root


def run(root: Path, *options: str, script: Path = INSTALL) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SHELL, script, *options],
        capture_output=True,
        text=True,
        env={**os.environ, "EDGED_ROOT": str(root)},
        timeout=60,
    )


def content(root: Path) -> dict[str, bytes]:
    """All files, but those that only say when they were made."""
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in ("edged-install.log", "calls")
    }


DRY_RUN = """dry run: nothing is changed
NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super: L4T R36.4.3, JetPack 6.2 \
(Python 3.10, CUDA 12.6, TensorRT 10.3)
+ /usr/bin/python3 -m venv --system-site-packages /opt/edged
+ /opt/edged/bin/python -m pip install --constraint constraints.txt .[tensorrt]
TensorRT 10.3.0 can be imported
file /etc/sysusers.d/edged.conf
+ systemd-sysusers
+ usermod --append --groups video edged
+ usermod --append --groups render edged
file /etc/systemd/system/edged.service
file /etc/systemd/system/edged.service.d/jetson.conf
file /etc/edged/edged.toml
folder /var/lib/edged (mode 750, account edged)
folder /var/cache/edged (mode 750, account edged)
folder /var/cache/edged/cuda (mode 750, account edged)
+ systemctl daemon-reload
+ runuser -u edged -- /opt/edged/bin/edged doctor
"""


def test_a_dry_run_says_everything_and_changes_nothing(tmp_path):
    root = machine(tmp_path)
    before = content(root)
    done = run(root, "--dry-run")
    assert (done.returncode, done.stdout, done.stderr) == (0, DRY_RUN, "")
    assert content(root) == before
    assert not (root / "calls").exists()


@pytest.mark.parametrize(("board", "jetpack"), trees.ALL)
def test_each_board_is_accepted_or_refused_by_its_jetpack(tmp_path, board, jetpack):
    done = run(machine(tmp_path, board, jetpack), "--dry-run")
    assert f", JetPack {jetpack} (Python {trees.RELEASES[jetpack][2]}, CUDA " in done.stdout
    if jetpack < "6.1":
        assert done.returncode == 2
        assert f"JetPack {jetpack} is refused: it has Python" in done.stderr
        assert "edged needs Python 3.10 and TensorRT 10.3 at least" in done.stderr
        assert "update to JetPack 6.1 (L4T R36.4) or later" in done.stderr
        assert "+ " not in done.stdout
    else:
        assert (done.returncode, done.stderr) == (0, "")
        assert "doctor" in done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("files", "says"),
    [
        (trees.PC, "this is no Jetson"),
        ({"proc/device-tree/compatible": "nvidia,tegra234\0"}, "no Jetson Linux"),
        ({"etc/nv_tegra_release": "something else\n"}, "does not tell the release"),
        ({"etc/nv_tegra_release": "# R32 (release), REVISION: 7.1, GCID: 1,\n"}, "L4T R32.7.1"),
        ({"etc/nv_tegra_release": "# R41 (release), REVISION: 1.0, GCID: 1,\n"}, "L4T R41.1.0"),
        ({"etc/nv_tegra_release": "# R36 (release), REVISION: 2.0, GCID: 1,\n"}, "L4T R36.2.0"),
    ],
    ids=["no Jetson", "another Linux", "no release", "too old", "too new", "a preview"],
)
def test_other_machines_are_refused_with_the_reason(tmp_path, files, says):
    done = run(trees.plant(tmp_path, {"var/log/lastlog": "", **files}), "--dry-run")
    assert done.returncode == 2
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_newer_release_of_a_known_jetpack_is_taken_for_it(tmp_path):
    root = machine(tmp_path)
    release = "# R36 (release), REVISION: 4.7, GCID: 1, BOARD: generic\n"
    trees.plant(root, {"etc/nv_tegra_release": release})
    assert "L4T R36.4.7, JetPack 6.2.1" in run(root, "--dry-run").stdout


def test_an_installation_does_what_the_dry_run_says_and_ends_with_doctor(tmp_path):
    root = machine(tmp_path)
    done = run(root)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(DRY_RUN.partition("\n")[2])
    calls = (root / "calls").read_text().splitlines()
    assert calls[0] == "python -m venv --system-site-packages /opt/edged"
    assert calls[1].startswith("python -m pip install --disable-pip-version-check --quiet")
    assert calls[2:5] == [
        "systemd-sysusers ",
        "usermod --append --groups video edged",
        "usermod --append --groups render edged",
    ]
    assert calls[-2:] == ["runuser -u edged -- /opt/edged/bin/edged doctor", "edged doctor"]
    for name in ("edged.service", "edged.service.d/jetson.conf"):
        installed = root / "etc/systemd/system" / name
        assert installed.read_text() == (SOURCE / "systemd" / name).read_text()
    assert (root / "var/cache/edged").stat().st_mode & 0o777 == 0o750
    assert (root / "etc/edged/edged.toml").read_text() == (
        SOURCE / "configs/edged.toml"
    ).read_text()
    log = (root / "var/log/edged-install.log").read_text()
    assert "systemctl daemon-reload" in log


def test_a_second_installation_changes_no_file(tmp_path):
    root = machine(tmp_path)
    run(root)
    trees.plant(root, {"etc/edged/edged.toml": "# mine\n"})
    before = content(root)
    done = run(root)
    assert done.returncode == 0
    assert "virtual environment /opt/edged is there" in done.stdout
    assert "file /etc/systemd/system/edged.service is up to date" in done.stdout
    assert "file /etc/edged/edged.toml is yours" in done.stdout
    after = content(root)
    assert {name: text for name, text in after.items() if name != "etc/passwd"} == {
        name: text for name, text in before.items() if name != "etc/passwd"
    }


def test_what_has_changed_is_brought_up_to_date(tmp_path):
    root = machine(tmp_path)
    run(root)
    unit = root / "etc/systemd/system/edged.service"
    unit.write_text("old\n")
    run(root)
    assert unit.read_text() == (SOURCE / "systemd/edged.service").read_text()


def test_without_tensorrt_the_apt_line_is_printed_and_the_rest_installed(tmp_path):
    done = run(machine(tmp_path, tensorrt=False))
    assert done.returncode == 0
    assert "apt-get install tensorrt python3-libnvinfer" in done.stdout
    assert "computes on the CPU" in done.stdout


@pytest.mark.parametrize(
    ("made", "status", "says"),
    [
        ({"python": "3.11"}, 2, "/usr/bin/python3 is Python 3.11, JetPack 6.2 has 3.10"),
        ({"no_venv": 1}, 1, "apt-get install python3-venv"),
        ({"doctor": 2}, 1, "mend what doctor calls bad"),
    ],
)
def test_what_does_not_work_is_said_with_what_to_do(tmp_path, made, status, says):
    done = run(machine(tmp_path, **made))
    assert done.returncode == status
    assert says in done.stderr


def test_a_warning_of_doctor_is_no_failure(tmp_path):
    done = run(machine(tmp_path, doctor=1))
    assert done.returncode == 0
    assert "doctor: status 1" in done.stdout


def test_a_step_that_fails_ends_it(tmp_path):
    root = machine(tmp_path)
    script(root, "systemd-sysusers", "#!/bin/sh\nexit 1\n")
    done = run(root)
    assert done.returncode == 1
    assert "this step has failed: systemd-sysusers" in done.stderr
    assert not (root / "etc/systemd/system/edged.service").exists()


def test_an_environment_that_does_not_see_tensorrt_is_not_used(tmp_path):
    root = machine(tmp_path)
    trees.plant(root, {"opt/edged/pyvenv.cfg": "include-system-site-packages = false\n"})
    assert "does not see the system's packages" in run(root).stderr
    (root / "opt/edged/pyvenv.cfg").unlink()
    assert "is no virtual environment" in run(root).stderr


def test_a_package_beside_the_script_is_installed_instead(tmp_path):
    root, source = machine(tmp_path / "root"), tmp_path / "source"
    shutil.copytree(SOURCE / "jetson", source / "jetson")
    for folder in ("systemd", "configs"):
        shutil.copytree(SOURCE / folder, source / folder)
    (source / "jetson/edged_0.1.0_arm64.deb").touch()
    done = run(root, "--dry-run", script=source / "jetson/install.sh")
    assert "+ apt-get install --yes" in done.stdout
    assert "edged_0.1.0_arm64.deb" in done.stdout
    assert "venv" not in done.stdout
    (source / "jetson/edged_0.2.0_arm64.deb").touch()
    done = run(root, "--dry-run", script=source / "jetson/install.sh")
    assert done.returncode == 1
    assert "there are 2 packages" in done.stderr


def test_uninstalling_leaves_models_and_configuration(tmp_path):
    root = machine(tmp_path)
    run(root)
    trees.plant(root, {"var/lib/edged/store/model": "mine", "var/cache/edged/block": "made"})
    before = content(root)
    assert run(root, "--uninstall", "--dry-run").returncode == 0
    assert content(root) == before
    done = run(root, "--uninstall")
    assert (done.returncode, done.stderr) == (0, "")
    assert "systemctl disable --now edged" in (root / "calls").read_text()
    for gone in ("opt/edged", "var/cache/edged", "etc/systemd/system/edged.service",
                 "etc/systemd/system/edged.service.d", "etc/sysusers.d/edged.conf"):  # fmt: skip
        assert not (root / gone).exists(), gone
    assert (root / "var/lib/edged/store/model").read_text() == "mine"
    assert (root / "etc/edged/edged.toml").exists()
    again = run(root, "--uninstall")
    assert (again.returncode, again.stderr) == (0, "")


def test_uninstalling_keeps_the_drop_ins_of_others(tmp_path):
    root = machine(tmp_path)
    run(root)
    other = "etc/systemd/system/edged.service.d/override.conf"
    trees.plant(root, {other: "[Service]\n"})
    run(root, "--uninstall")
    assert (root / other).exists()


def test_an_unknown_option_is_refused_before_anything_is_done(tmp_path):
    root = machine(tmp_path)
    done = run(root, "--force")
    assert done.returncode == 2
    assert "no option --force; see --help" in done.stderr
    assert not (root / "calls").exists()


def test_help_needs_no_jetson(tmp_path):
    done = run(tmp_path, "--help")
    assert done.returncode == 0
    assert "--uninstall" in done.stdout


@pytest.mark.skipif(os.geteuid() == 0, reason="this account is root, which may install")
def test_without_root_nothing_is_tried():
    environment = {name: value for name, value in os.environ.items() if name != "EDGED_ROOT"}
    done = subprocess.run([SHELL, INSTALL], capture_output=True, text=True, env=environment)
    assert done.returncode == 2
    assert "run it as root" in done.stderr
