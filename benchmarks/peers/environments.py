"""One virtual environment per peer, created once: the same torch first, then the peer, then only its requirements."""

import json
import subprocess
import sys
import venv
from pathlib import Path

import transformers

TORCH = "torch==2.13.0"
BASE = ["numpy", f"transformers=={transformers.__version__}"]
EXACT = "--no-deps"
"""For peers whose requirements would pull torchvision or torchaudio, and with them another build of torch."""

STEPS: dict[str, list[list[str]]] = {
    "captum": [[TORCH], [TORCH, *BASE, "captum==0.9.0"]],
    "dattri-llm": [[TORCH], BASE, [EXACT, "dattri-llm==0.1.0"], ["tqdm"]],
    "dattri": [[TORCH], BASE, [EXACT, "dattri==0.3.0"], ["scipy", "pyyaml", "tqdm", "pretty_midi"]],
    "kronfluence": [
        [TORCH],
        BASE,
        [EXACT, "kronfluence==1.0.1"],
        [TORCH, "accelerate", "einops", "einconv", "opt-einsum", "safetensors", "tqdm"],
    ],
    "traker": [[TORCH], [*BASE, "setuptools", "wheel", "tqdm"], [EXACT, "--no-build-isolation", "traker==0.3.2"]],
    "bergson": [
        [TORCH],
        BASE,
        [EXACT, "bergson==2.5.1"],
        [
            *(TORCH, "accelerate", "datasets", "jinja2", "jaxtyping", "ml_dtypes", "natsort", "scipy", "peft"),
            *("petname", "pyarrow", "pyyaml", "simple-parsing"),
        ],
        [EXACT, "torchopt", "bitsandbytes"],
        ["optree"],
    ],
}


class EnvironmentFailedError(Exception):
    """An environment could not be made; the message is the last lines of pip."""


def environment(peer: str, folder: Path) -> Path:
    """Make a peer's environment, unless it is there."""
    place = folder / peer
    python, made = place / "bin" / "python", place / "made.json"
    if made.is_file() and json.loads(made.read_text(encoding="utf-8")) == STEPS[peer]:
        return python
    print(f"{peer}: making its environment", file=sys.stderr)
    venv.create(place, clear=True, with_pip=True)
    for step in STEPS[peer]:
        words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *step]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
            raise EnvironmentFailedError("; ".join(lines[-2:]) or done.stderr[-300:])
    made.write_text(json.dumps(STEPS[peer]), encoding="utf-8")
    return python
