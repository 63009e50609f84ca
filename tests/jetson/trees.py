"""Made-up trees of /proc, /sys, /etc and /dev of Jetson boards, and of a machine that is none.

Nothing here was recorded on a board: names, units and figures are those of NVIDIA's documentation,
of tegrastats samples and of users' reports.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

RELEASES = {
    "5.1": ("35", "4.1", "3.8"),
    "6.0": ("36", "3.0", "3.10"),
    "6.1": ("36", "4.0", "3.10"),
    "6.2": ("36", "4.3", "3.10"),
    "7.0": ("38", "2.1", "3.12"),
    "7.1": ("38", "4.0", "3.12"),
    "7.2": ("39", "2.0", "3.12"),
}  # R, REVISION and Python of each JetPack

_ORIN, _THOR = ("5.1", "6.0", "6.1", "6.2", "7.2"), ("7.0", "7.1", "7.2")

# Each board with each JetPack that there is for it.
ALL = [
    *((board, jetpack) for board in ("orin-nano", "orin-nx", "agx-orin") for jetpack in _ORIN),
    *(("thor", jetpack) for jetpack in _THOR),
]

_MODELS = {
    "orin-nano": (
        "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        ("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
        7_802_880,
    ),
    "orin-nx": (
        "NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
        ("nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"),
        16_252_928,
    ),
    "agx-orin": (
        "NVIDIA Jetson AGX Orin Developer Kit",
        ("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"),
        64_324_608,
    ),
    "thor": (
        "NVIDIA Jetson AGX Thor Developer Kit",
        ("nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"),
        128_790_092,
    ),
}  # model, compatible, MemTotal in kB

_MODES = {
    "orin-nano": ("15W", "25W", "MAXN_SUPER", "7W"),
    "orin-nx": ("MAXN", "10W", "15W", "25W"),
    "agx-orin": ("MAXN", "MODE_15W", "MODE_30W", "MODE_50W"),
    "thor": ("MAXN", "120W", "90W", "70W"),
}
_MODE = {"orin-nano": 1, "orin-nx": 3, "agx-orin": 0, "thor": 0}

# Rails by monitor: label, mV, mA. A Thor's VIN tells its power itself.
_RAILS = {
    "orin-nano": [[("VDD_IN", 4984, 1330), ("VDD_CPU_GPU_CV", 4984, 246), ("VDD_SOC", 4976, 478)]],
    "orin-nx": [[("VDD_IN", 4992, 1800), ("VDD_CPU_GPU_CV", 4992, 500), ("VDD_SOC", 4984, 520)]],
    "agx-orin": [
        [("VDD_GPU_SOC", 20_000, 120), ("VDD_CPU_CV", 20_000, 40), ("VIN_SYS_5V0", 5_000, 700)],
        [("NC", 0, 0), ("VDDQ_VDD2_1V8AO", 5_000, 60)],
    ],
    "thor": [
        [("VDD_GPU", 9_000, -43), ("VDD_CPU_SOC_MSS", 9_000, 720), ("VIN_SYS_5V0", 5_000, 1300)]
    ],
}

PC = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: AMD EPYC 9B14\n\n",
    "proc/meminfo": "MemTotal:       32768000 kB\nMemAvailable:   30000000 kB\n",
    "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n",
    "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
    "etc/group": "root:x:0:\n",
    "var/log/lastlog": "",
}


def files(board: str, jetpack: str) -> dict[str, str]:
    """The files of a board with a JetPack, at rest."""
    model, compatible, total_kb = _MODELS[board]
    release, revision, _ = RELEASES[jetpack]
    is_thor = board == "thor"
    found = {
        "proc/device-tree/model": f"{model}\0",
        "proc/device-tree/compatible": "\0".join((*compatible, "")),
        "etc/nv_tegra_release": f"# R{release} (release), REVISION: {revision}, GCID: 38968081, "
        "BOARD: generic, EABI: aarch64, DATE: Wed Jan  8 01:49:37 UTC 2025\n",
        "proc/meminfo": f"MemTotal:       {total_kb} kB\nMemFree:  1000 kB\n"
        f"MemAvailable:   {total_kb - 900_000} kB\n",
        "proc/swaps": "Filename\tType\tSize\tUsed\tPriority\n"
        + "".join(f"/dev/zram{n} partition {total_kb // 12} 0 5\n" for n in range(6)),
        "etc/passwd": "root:x:0:0:root:/root:/bin/bash\n",
        "etc/group": "root:x:0:\nvideo:x:44:\nrender:x:104:\n",
        "var/lib/nvpmodel/status": f"pmode:{_MODE[board]:04d} fmode:quiet\n",
        "etc/nvpmodel.conf": "".join(
            f"< POWER_MODEL ID={n} NAME={name} >\nCPU_ONLINE CORE_0 1\n"
            for n, name in enumerate(_MODES[board])
        ),
        "var/log/lastlog": "",
        **_processors(),
        **_thermal(is_thor),
        **_power(board),
        **(_thor() if is_thor else _orin()),
    }
    return found


def plant(root: Path, found: Mapping[str, str]) -> Path:
    """Write the files below `root`."""
    for name, text in found.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def _orin() -> dict[str, str]:
    devfreq = "sys/class/devfreq/17000000.gpu"
    return {
        f"{devfreq}/cur_freq": "306000000\n",
        f"{devfreq}/min_freq": "306000000\n",
        f"{devfreq}/max_freq": "918000000\n",
        f"{devfreq}/governor": "nvhost_podgov\n",
        f"{devfreq}/device/load": "45\n",
        "sys/class/devfreq/15340000.vic/cur_freq": "115200000\n",
        "dev/nvmap": "",
        "dev/dri/renderD128": "",
        "dev/nvgpu/igpu0/ctrl": "",
    }


def _thor() -> dict[str, str]:
    devfreq = "sys/class/devfreq/gpu-gpc-0"
    return {
        f"{devfreq}/cur_freq": "315000000\n",
        f"{devfreq}/min_freq": "315000000\n",
        f"{devfreq}/max_freq": "1575000000\n",
        f"{devfreq}/governor": "nvhost_podgov\n",
        "sys/class/devfreq/gpu-nvd-0/cur_freq": "500000000\n",
        "dev/nvidia0": "",
        "dev/nvidiactl": "",
        "dev/nvidia-uvm": "",
        "dev/dri/renderD128": "",
    }


def _processors() -> dict[str, str]:
    found = {}
    for number, cores in ((0, "0 1 2 3"), (4, "4 5")):
        folder = f"sys/devices/system/cpu/cpufreq/policy{number}"
        found |= {
            f"{folder}/affected_cpus": f"{cores}\n",
            f"{folder}/scaling_cur_freq": "729600\n",
            f"{folder}/scaling_max_freq": "1344000\n",
            f"{folder}/cpuinfo_max_freq": "1728000\n",
            f"{folder}/scaling_governor": "schedutil\n",
        }
    return found


def _thermal(is_thor: bool) -> dict[str, str]:
    zones = {
        "cpu-thermal": 50_125,
        "gpu-thermal": 50_562,
        "tj-thermal": 50_562,
        "cv0-thermal": -256_000,
    }
    if is_thor:
        del zones["gpu-thermal"]  # its sensor cannot be read while the GPU is off
    cooling = {
        "pwm-fan": 2,
        "cpu-throttle-alert": 0,
        "gpu-throttle-alert": 0,
        "hot-surface-alert": 0,
    }
    if is_thor:
        cooling["devfreq-gpu-gpc-0"] = 18  # the limit of a power mode
    found = {}
    for number, (name, temperature) in enumerate(zones.items()):
        found[f"sys/class/thermal/thermal_zone{number}/type"] = f"{name}\n"
        found[f"sys/class/thermal/thermal_zone{number}/temp"] = f"{temperature}\n"
    for number, (name, state) in enumerate(cooling.items()):
        found[f"sys/class/thermal/cooling_device{number}/type"] = f"{name}\n"
        found[f"sys/class/thermal/cooling_device{number}/cur_state"] = f"{state}\n"
    return found


def _power(board: str) -> dict[str, str]:
    found = {"sys/class/hwmon/hwmon0/name": "nvme\n"}
    for number, channels in enumerate(_RAILS[board], start=1):
        folder = f"sys/class/hwmon/hwmon{number}"
        found[f"{folder}/name"] = "ina3221\n"
        for channel, (label, millivolts, milliamperes) in enumerate(channels, start=1):
            found[f"{folder}/in{channel}_label"] = f"{label}\n"
            found[f"{folder}/in{channel}_input"] = f"{millivolts}\n"
            found[f"{folder}/curr{channel}_input"] = f"{milliamperes}\n"
        found[f"{folder}/in7_label"] = "sum of shunt voltages\n"
        found[f"{folder}/in7_input"] = "12\n"
    if board == "thor":
        found |= {
            "sys/class/hwmon/hwmon4/name": "ina238\n",
            "sys/class/hwmon/hwmon4/label": "VIN\n",
            "sys/class/hwmon/hwmon4/power1_input": "23100000\n",
        }
    found["sys/class/hwmon/hwmon5/name"] = "soctherm_oc\n"
    for number in (1, 2, 3):
        found[f"sys/class/hwmon/hwmon5/oc{number}_event_cnt"] = "0\n"
    return found
