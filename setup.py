"""Builds moai/_C with CMake; everything else that packaging needs stands in pyproject.toml."""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Wheels are configured apart and installed stripped; an editable install is the `dev` preset's build."""

    def run(self):
        if self.inplace or self.editable_mode:
            if not (ROOT / "build/dev/build.ninja").exists():
                self.cmake("--preset", "dev", f"-DPython_EXECUTABLE={sys.executable}")
            self.cmake("--build", "--preset", "dev", "--target", "_C")
            return
        build = str(Path(self.build_temp).absolute())
        options = ["-DMOAI_INPLACE=OFF", "-DMOAI_TESTS=OFF", f"-DPython_EXECUTABLE={sys.executable}"]
        self.cmake("-S", str(ROOT), "-B", build, "-G", "Ninja", *options)
        self.cmake("--build", build, "--target", "_C", "--parallel", os.environ.get("MAX_JOBS", "2"))
        self.cmake("--install", build, "--strip", "--prefix", str(Path(self.build_lib).absolute()))

    def cmake(self, *arguments):
        # The cmake and ninja that pip put beside this Python are found though no one activated it.
        path = os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)])
        subprocess.run(["cmake", *arguments], cwd=ROOT, check=True, env={**os.environ, "PATH": path})


setup(ext_modules=[Extension("moai._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
