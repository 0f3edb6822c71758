"""Install a wheel into an empty folder and use it from there: every file of the source is in it, and the demo runs.

    python tools/check_wheel.py dist/proponent-0.1.0-py3-none-any.whl

Its dependencies are those of the Python that runs this.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

SOURCE = Path(__file__).resolve().parents[1] / "src"


def main() -> None:
    """Compare the files, then run commands outside of the checkout."""
    wheel = Path(sys.argv[1]).resolve()
    held = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("proponent/")}
    files = (path for path in (SOURCE / "proponent").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    wanted = {path.relative_to(SOURCE).as_posix() for path in files}
    if held != wanted:
        raise SystemExit(f"missing: {sorted(wanted - held)[:9]}; too many: {sorted(held - wanted)[:9]}")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        subprocess.run([*pip, "--target", str(place / "installed"), str(wheel)], check=True)
        said = run(place, "-c", "import proponent; print(proponent.__file__)").strip()
        if not Path(said).is_relative_to(place / "installed"):
            raise SystemExit(f"another proponent was imported: {said}")
        run(place, "-m", "proponent.cli", "demo", "--out", "demo", "--quiet")
        answer = run(place, "-m", "proponent.cli", "explain", "demo/demo.index", "a lock for threads", "-k", "3")
        if "Helped" not in answer:
            raise SystemExit(answer)
        run(place, "-c", "from proponent.web import app, serving")
    print(f"{wheel.name}: {wheel.stat().st_size:,} bytes, {len(held)} files; demo, explain and explorer run from it")


def run(place: Path, *words: str) -> str:
    """Run Python in a folder, with nothing but the installed wheel before its own packages."""
    environment = os.environ | {"PYTHONPATH": str(place / "installed"), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, *words], cwd=place, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout


if __name__ == "__main__":
    main()
