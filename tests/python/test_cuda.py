"""What there is of CUDA where there is no GPU: how devices are named, found and missed, and that the library loads."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import moai
import pytest
from moai import _C, options

LIBRARY = Path(moai.__file__).with_name("libmoai_cuda.so")
STUB = Path("/usr/local/cuda/lib64/stubs/libcuda.so")  # of the toolkit: a driver that serves nobody
built = pytest.mark.skipif(
    not LIBRARY.exists(), reason="libmoai_cuda is not built: no nvcc, or torch has no CUDA"
)
no_driver = pytest.mark.skipif("(libcuda.so.1)" not in _C.why_no_gpu(), reason="there is a CUDA driver here")

SCRIPT = """
    import torch
    print(torch.ones(3, device="moai").sum().item(), torch.moai.get_device_name())
"""


def python(script: str, **environment: str) -> subprocess.CompletedProcess:
    inherited = {key: value for key, value in os.environ.items() if key != "MOAI_DEVICES"}
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        env=inherited | environment,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("", options.Devices("")),
        ("cpu", options.Devices("cpu")),
        (" cpu:12 ", options.Devices("cpu", count=12)),
        ("cuda", options.Devices("cuda")),
        ("cuda:0", options.Devices("cuda", indices=(0,))),
        ("cuda:2-4", options.Devices("cuda", indices=(2, 3, 4))),
        ("cuda:3-3", options.Devices("cuda", indices=(3,))),
    ],
)
def test_devices_are_read(text: str, devices: options.Devices) -> None:
    assert options.parse_devices("MOAI_DEVICES", text) == devices


@pytest.mark.parametrize(
    "text", ["cpu:0", "cpu:", "gpu", "cuda:", "cuda:3-1", "cuda:0,1", "cuda:-1", "cuda:0-9999", "cpu:9999"]
)
def test_what_names_no_devices_is_told_what_does(text: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"MOAI_DEVICES holds '{text}', which names no devices")
    ) as told:
        options.parse_devices("MOAI_DEVICES", text)
    assert "cuda:0-3" in str(told.value) and "cpu:1 to cpu:" in str(told.value)


@no_driver
@pytest.mark.parametrize("named", ["cuda", "cuda:0-3"])
def test_gpus_asked_for_in_vain_are_missed_in_one_line(named: str) -> None:
    run = python(SCRIPT, MOAI_DEVICES=named)
    assert run.stdout == f"3.0 moai ({named})\n"
    assert run.stderr == "moai: there is no CUDA driver (libcuda.so.1): running on the CPU\n"


@no_driver
def test_a_machine_without_gpus_says_nothing_of_them() -> None:
    run = python(SCRIPT)
    assert (run.stdout, run.stderr) == ("3.0 moai (cpu:0)\n", "")


@no_driver
def test_configure_misses_gpus_too_and_values_stay() -> None:
    run = python(
        """
        import moai, torch
        x = torch.ones(3).to("moai") * 2
        moai.configure(devices="cuda:1")
        print((x + 1).sum().item(), [one["name"] for one in moai.stats()["devices"]])
        """
    )
    assert run.stdout == "9.0 ['cpu:0']\n"
    assert run.stderr.count("\n") == 1 and "running on the CPU" in run.stderr


@built
@no_driver
@pytest.mark.skipif(not STUB.exists(), reason="the toolkit has no stub of a driver")
def test_a_driver_that_does_not_serve_is_always_told(tmp_path: Path) -> None:
    """As far as one comes without a GPU: the library is loaded, asks the driver, and says what it said."""
    (tmp_path / "libcuda.so.1").symlink_to(STUB)
    path = os.pathsep.join([str(tmp_path), os.environ.get("LD_LIBRARY_PATH", "")])
    run = python(SCRIPT, LD_LIBRARY_PATH=path)
    assert run.stdout == "3.0 moai (cpu:0)\n"
    assert (
        run.stderr
        == "moai: the CUDA driver does not serve: CUDA driver is a stub library: running on the CPU\n"
    )


@built
def test_the_library_belongs_to_one_version_and_the_extension_links_no_cuda() -> None:
    library = ctypes.CDLL(str(LIBRARY))
    library.moai_open_cuda_library.restype = ctypes.c_void_p
    assert library.moai_open_cuda_library(b"0.0.0-other", None) is None
    needed = subprocess.run(["readelf", "-d", _C.__file__], capture_output=True, text=True, check=True).stdout
    assert "libtorch_cpu.so" in needed
    assert not re.search(r"NEEDED.*(cuda|cudart|nccl|nvrtc|cublas)", needed)
