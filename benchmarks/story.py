"""A batch that outgrows its devices: 512 sequences on 16 against 64 on 16, for each token.

python benchmarks/story.py           # `moai bench --preset story`, three rounds of three runs, some minutes
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from common import Figure, write


def figures(results: dict) -> list[Figure]:
    """Return what the preset measured, as figures."""
    low, high = results["ratio_range"]
    detail = {f"{name}, tokens/sec": run["tokens_per_second"] for name, run in results["runs"].items()}
    detail |= {f"{name}, layout": run["layout"] for name, run in results["runs"].items()}
    name = "512 on 16 devices under a limit of memory against 64 on 16, each token"
    return [Figure(name, results["ratio"], 1.0, "higher", "x", low, high, detail)]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "story.json"
        subprocess.run(
            [sys.executable, "-m", "moai", "bench", "--preset", "story", "--json", str(path)], check=True
        )
        write("story", figures(json.loads(path.read_text())))
