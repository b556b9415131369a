"""What `moai plan` predicts for this machine, after `moai calibrate`, against what `moai bench` takes on it.

python benchmarks/prediction.py      # five models on 1, 2 and 4 virtual devices; some ten minutes

Both follow the same plan (data parallelism over all devices); seconds of a step are the run's median. Bound: 15 % each.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Figure, write

BOUND = 0.15
MODELS = {"tiny": 300, "mini": 25, "small": 12, "gpt2-tiny": 300, "gpt2-small": 12}  # and how many steps
DEVICES = (1, 2, 4)
ROUNDS = 3
# The job that `moai bench` runs, as a script of a user's.
SCRIPT = "import sys\nfrom moai.cli import main\nsys.exit(main(['bench', *sys.argv[1:]]))\n"


def moai(*arguments: str, **environment: str) -> None:
    """Run a command of moai's, quietly."""
    command = [sys.executable, "-m", "moai", *arguments]
    done = subprocess.run(
        command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}:\n{done.stdout}")


def predicted(model: str, devices: int, folder: Path, profile: str) -> dict:
    """What the plan of this job says."""
    script, out = folder / "job.py", folder / "plan.json"
    script.write_text(SCRIPT)
    pin = ("--pin", f"dp={devices}") if devices > 1 else ()
    job = ("--model", model, "--steps", "20", "--sample-bytes", "0")
    moai(
        "plan",
        str(script),
        "--cluster",
        f"here:{devices}",
        *pin,
        "--json",
        str(out),
        "--",
        *job,
        MOAI_PROFILE=profile,
    )
    return json.loads(out.read_text())


def measured(model: str, devices: int, folder: Path) -> float:
    """Seconds of a step."""
    out = folder / "bench.json"
    job = ("--model", model, "--steps", str(MODELS[model]), "--sample-bytes", "0", "--devices", str(devices))
    plan = f"dp={devices}" if devices > 1 else ""
    moai("bench", *job, "--json", str(out), MOAI_PLAN=plan, MOAI_CACHE="off")
    return json.loads(out.read_text())["throughput"]["step_seconds"]


def main() -> None:
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile = str(folder / "machine.json")
        moai("calibrate", "--output", profile)
        for model in MODELS:
            for devices in DEVICES:
                found = predicted(model, devices, folder, profile)
                taken = [measured(model, devices, folder) for _ in range(ROUNDS)]
                says = found["step_time_s"]
                off = [abs(math.log(says / seconds)) for seconds in taken]
                figures.append(
                    Figure(
                        f"{model} on {devices}: prediction off, log ratio",
                        statistics.median(off),
                        BOUND,
                        "lower",
                        "",
                        min(off),
                        max(off),
                        {"predicted_s": says, "measured_s": taken, "time": found["time"]},
                    )  # fmt: skip
                )
                print(
                    f"{figures[-1].name} {figures[-1].value:.3f} ({says:.4f} s, {taken[0]:.4f} s)", flush=True
                )
    write("prediction", figures)


if __name__ == "__main__":
    main()
