"""Contents and cost of an index in the terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from proponent.types import CheckpointId
from proponent.views.tables import print_table


def print_inventory(content: Mapping[str, Any], forecast: Sequence[Mapping[str, Any]]) -> None:
    """Print the contents and the cost of an index, and the forecast if there is one."""
    sources = [f"{one['data']}: {one['rows']:,} rows, {one['fingerprint'][:12]}" for one in content["sources"]]
    rate, peak = content["examples_per_second"], content["peak_rss"]
    rows = [
        ("method", content["method"]),
        ("run", content["run"]),
        *[("source", line) for line in sources],
        ("examples", f"{content['examples']:,}"),
        ("deleted", f"{content['deleted']:,}"),
        ("skipped", f"{content['skipped']:,}" + (" (no score: the notes say why)" if content["skipped"] else "")),
        ("segments", f"{content['segments']:,}"),
        ("checkpoints", ", ".join(str(CheckpointId(one["run"], one["step"])) for one in content["checkpoints"])),
        (
            "gradient rows",
            f"{content['gradient_rows']:,} of {content['tokens']:,} distinct tokens, kept as {content['rows']}",
        ),
        *[(f"bytes of {kind}", spelled_bytes(size)) for kind, size in content["bytes"].items()],
        *[(f"seconds of {stage}", f"{spent:.2f}") for stage, spent in content["seconds"].items()],
        ("examples per second", "-" if rate is None else f"{rate:,.1f}"),
        ("peak memory", "-" if peak is None else spelled_bytes(peak)),
        ("generation", str(content["generation"])),
        ("root", content["merkle_root"] or "-"),
    ]
    title = content["index"]
    if not content["finished"]:
        title += f": unfinished; {content['coverage']:.0%} of the examples are in it"
    print_table(Console(), title, ("what", "value"), rows, content["notes"])
    if forecast:
        shown = [
            (one["what"], spelled(one["what"], one["forecast"]), spelled(one["what"], one["real"]), _ratio(one))
            for one in forecast
        ]
        print_table(Console(), "predicted and actual cost", ("what", "forecast", "actual", "ratio"), shown)


def spelled(name: str, value: float | int | None) -> str:
    """A figure for display: seconds, or bytes in a suitable unit."""
    if value is None:
        return "-"
    return f"{value:,.2f}" if name.startswith("seconds") else spelled_bytes(value)


def _ratio(one: Mapping[str, Any]) -> str:
    return "-" if one["ratio"] is None else f"{one['ratio']:.2f}"


def spelled_bytes(count: float | int) -> str:
    """Bytes in a suitable unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} TiB"
