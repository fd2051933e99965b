"""The benchmarks run from a checkout that is not installed, and use its code even if another version is installed."""

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).parents[2]
MAIN = 'if __name__ == "__main__"'
SCRIPTS = [
    path for path in sorted(Path(__file__).parent.glob("*.py")) if MAIN in path.read_text() and path != Path(__file__)
]
"""Every program here; neither tests nor the modules that programs share."""
RUN = """
import contextlib, io, runpy, sys
from pathlib import Path
site, *scripts = sys.argv[1:]
sys.path.append(site)  # its .pth files, which an editable install consists of, are not read
plain = list(sys.path)
for script in scripts:
    sys.path[:] = plain
    sys.argv = [script, "--help"]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("avatar_gs", "tests")]:
        del sys.modules[name]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        runpy.run_path(script, run_name="__main__")
    print(Path(script).name, "usage:" in printed.getvalue(), sys.modules["avatar_gs"].__file__)
"""


def test_every_benchmark_finds_its_checkout_from_anywhere(tmp_path: Path) -> None:
    """``-I``: no PYTHONPATH, no folder of the script or of the caller; ``-S``: nothing that is installed editable."""
    command = [sys.executable, "-I", "-S", "-c", RUN, sysconfig.get_path("purelib"), *map(str, SCRIPTS)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    expected = [f"{script.name} True {ROOT / 'avatar_gs' / '__init__.py'}" for script in SCRIPTS]
    assert len(SCRIPTS) >= 3 and done.stdout.splitlines() == expected
