"""A Slurm array script of a build in parts: printed, never submitted."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

MOST_PARTS = 1000
"""Slurm's own limit of an array's numbers is 1001 by default."""


def array_script(words: Sequence[str], parts: int, folder: Path) -> str:
    """The script that runs a command of these words once for each part, from a folder."""
    command = " ".join(map(shlex.quote, [sys.executable, "-m", "proponent.cli", *words]))
    gpu = ["#SBATCH --gpus-per-task=1"] if any(word.startswith("cuda") for word in words) else []
    if any(word.startswith("--device-map") for word in words):
        gpu = ["# Ask for the GPUs that the model is split over: #SBATCH --gpus-per-task=N"]
    lines = [
        "#!/bin/bash",
        "# An index in parts, each computed once: submit this file with sbatch. Parts may end in any order and be run",
        "# again; the last one seals the index. The folder of the index must be on a file system that all nodes share.",
        "# Add what your cluster asks for: --time, --mem, --partition, --account.",
        "#SBATCH --job-name=proponent-index",
        f"#SBATCH --array=0-{parts - 1}",
        "#SBATCH --cpus-per-task=1",
        *gpu,
        "#SBATCH --requeue",
        "#SBATCH --output=proponent-index-%A-%a.log",
        "set -euo pipefail",
        f"cd {shlex.quote(str(folder))}",
        "export OMP_NUM_THREADS=1",
        f'exec {command} --shard "${{SLURM_ARRAY_TASK_ID}}/{parts}"',
    ]
    return "\n".join(lines)


def script_of(ctx: Any, value: str | None) -> str | None:
    """The script in place of the number of parts; typer passes its context, whose class it does not export."""
    if value is None:
        return None
    if not value.isdecimal() or not 1 <= int(value) <= MOST_PARTS:
        raise typer.BadParameter(f"{value}: give the number of parts, from 1 to {MOST_PARTS}")
    words: list[Any] = ctx.meta["proponent.words"]
    place = next(at for at, word in enumerate(words) if word == "--slurm" or word.startswith("--slurm="))
    kept = words[:place] + words[place + (1 if "=" in words[place] else 2) :]
    return array_script([str(ctx.info_name), *kept], int(value), Path.cwd())
