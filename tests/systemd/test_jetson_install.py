"""jetson/install.sh with the real systemd, accounts and rights: from nothing to an answer and back.

The box says that it is a Jetson, and is none. Only apt and dpkg are made up: they stand for a
package that has brought the program, since the box has no network.
"""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.colors import picture, write_store
from tests.systemd.box import Box, obstacle
from tests.systemd.installation import PREFIX, SOURCE, STORE, UNIT, Installation, lay_out

pytestmark = pytest.mark.root

_PREPARE = f"""
mkdir -p /tmp/source /tmp/programs /var/log
cp -r {SOURCE}/jetson {SOURCE}/systemd {SOURCE}/configs /tmp/source
touch /tmp/source/jetson/edged_0.1.0_arm64.deb
printf '#!/bin/sh\\n' >/tmp/programs/apt-get
printf '#!/bin/sh\\necho edged 0.1.0\\n' >/tmp/programs/dpkg-query
chmod 755 /tmp/programs/*
groupadd --force --system render
echo '# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64' >/etc/nv_tegra_release
"""


@pytest.fixture
def installation(tmp_path):
    if (reason := obstacle()) is not None:
        pytest.skip(reason)
    binds = lay_out(tmp_path / "opt")
    (tmp_path / "box").mkdir()
    box = Box(tmp_path / "box", binds)
    box.start()
    try:
        box.run("bash", "-euc", _PREPARE)
        yield Installation(box)
    finally:
        box.close()


def install(installation: Installation, *options: str) -> subprocess.CompletedProcess[str]:
    environment = [f"{name}={value}" for name, value in installation.environment.items()]
    path = "PATH=/tmp/programs:/usr/sbin:/usr/bin:/sbin:/bin"
    script = "/tmp/source/jetson/install.sh"
    return installation.box.run("env", *environment, path, "sh", script, *options, check=False)


def test_it_is_installed_serves_and_is_removed(installation, tmp_path):
    done = install(installation)
    assert done.returncode == 0, done.stderr
    assert "apt-get install tensorrt python3-libnvinfer" in done.stdout
    assert "good    cache       /var/cache/edged can be written" in done.stdout
    assert "doctor: status 1" in done.stdout  # there is no GPU
    groups = installation.box.run("id", "--name", "--groups", "edged").stdout.split()
    assert {"edged", "video", "render"} <= set(groups)

    environment = " ".join(f"{name}={value}" for name, value in installation.environment.items())
    installation.box.write(f"{UNIT}.d/test.conf", f"[Service]\nEnvironment={environment}\n")
    store = write_store(tmp_path / "store")
    shutil.copytree(store, installation.box.path(STORE))
    installation.systemctl("daemon-reload")
    installation.systemctl("enable", "--now", "edged")
    with installation.client() as client:
        (best,) = client.infer(picture(200, 10, 10), "color", top_k=1)["color"].classes[0]
        assert best.label == "red"
    assert installation.show("SupplementaryGroups") == {"SupplementaryGroups": "video render"}

    assert install(installation).returncode == 0  # beside a daemon that serves
    assert installation.show("ActiveState") == {"ActiveState": "active"}

    done = install(installation, "--uninstall")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "removing edged")
    assert not installation.fronts()
    for gone in (UNIT, f"{UNIT}.d/jetson.conf", "/var/cache/edged"):
        assert not installation.box.path(gone).exists(), gone
    assert installation.box.path(STORE).exists()
    assert installation.box.path(f"{UNIT}.d/test.conf").exists()
    assert installation.box.path(f"{PREFIX}/bin/edged").exists()  # that is the package's
