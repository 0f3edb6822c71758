"""Draw the records: docs/fidelity.md and its SVG plots from the dated JSON.

python benchmarks/fidelity/pictures.py
"""

import html
import json
import sys
from pathlib import Path
from statistics import mean
from types import SimpleNamespace

sys.path.append(str(Path(__file__).resolve().parents[1]))

import harness
import pictures_g
import pictures_h
import pictures_w
from harness import RESULTS, table

PLACE = SimpleNamespace(results=RESULTS, docs=harness.ROOT / "docs")
"""Where records are read and pages written."""
CONTROLS = {"label", "bm25", "tfidf-label", "embedding", "random", "tfidf-sign", "bm25-sign", "loss"}
NAMES = {
    "adam": "tracin-we-adam", "adam-unit": "tracin-we-adam unit-norm", "adam-estimate": "adam, moments estimated",
    "adam-estimate-unit": "adam, estimated, unit norm", "both-sides": "divided on both sides", "noc": "tracin-we-noc",
    "topk": "tracin-we-topk", "every-layer-above": "all layers but the embedding",
    "syn": "tracin-we-syn", "tfidf-sign": "TF-IDF x label sign", "bm25-sign": "BM25 x label sign",
}  # fmt: skip

UNMATCHED = (
    '"Minus random" subtracts one draw with the class mix of the first method\'s strongest proponents, not one matched '
    "to the method and side: for rows that hurt it is withdrawn until measured so "
    "([why](evaluation.md#random-rows-of-a-deletion))."
)


def record(name: str) -> dict | None:
    """Read the newest record of a name."""
    path = harness.newest(PLACE.results, f"fidelity-{name}")
    return None if path is None else json.loads(path.read_text()) | {"file": path.name}


def names(pattern: str) -> list[str]:
    """Names of the records of a kind."""
    return sorted({path.stem.split("-fidelity-")[1] for path in PLACE.results.glob(f"*-fidelity-{pattern}.json")})


def bars(path: Path, title: str, rows: list[tuple[str, float, float, float, bool]], unit: str) -> None:
    """Horizontal bars with intervals; controls are hollow."""
    low = min(0.0, *(row[2] for row in rows))
    high = max(0.0, *(row[3] for row in rows))
    left, width, step = 250.0, 430.0, 22

    def x(value: float) -> float:
        return left + width * (value - low) / (high - low)

    height = 46 + step * len(rows)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 700 {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="700" height="{height}" fill="#fff"/><text x="10" y="18" '
        f'font-weight="bold">{html.escape(title)}</text>',
        f'<path d="M{x(0):.1f} 28V{height - 14}" stroke="#999"/>',
    ]
    for place, (name, value, lower, upper, control) in enumerate(rows):
        y = 36 + step * place
        fill, stroke = ("#fff", "#6d675f") if control else ("#2f74d0", "#2f74d0")
        begin, end = sorted((x(0), x(value)))
        parts += [
            f'<text x="{left - 8}" y="{y + 11}" text-anchor="end">{html.escape(name)}</text>',
            f'<rect x="{begin:.1f}" y="{y}" width="{max(end - begin, 0.5):.1f}" height="14" fill="{fill}" '
            f'stroke="{stroke}"/>',
            f'<path d="M{x(lower):.1f} {y + 7}H{x(upper):.1f}M{x(lower):.1f} {y + 3}v8M{x(upper):.1f} '
            f'{y + 3}v8" stroke="#211f1c"/>',
        ]
    for value in (low, 0.0, high):
        parts.append(
            f'<text x="{x(value):.1f}" y="{height - 2}" text-anchor="middle" fill="#5d5852">{value:.2f}</text>'
        )
    parts.append(
        f'<text x="690" y="18" text-anchor="end" fill="#5d5852">{html.escape(unit)}; hollow = control</text></svg>'
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text("\n".join(parts) + "\n")


def ends(one: dict) -> tuple[float, float, float]:
    """A figure and its interval."""
    return one["value"], one["low"], one["high"]


def of_ceiling(one: dict) -> str:
    """The share of the ceiling; none where the ceiling may be zero."""
    return "-" if one["of_ceiling"] is None else f"{one['of_ceiling']:.2f}"


def shown(one: dict) -> str:
    """A figure with its interval."""
    return f"{one['value']:.3f} [{one['low']:.3f}, {one['high']:.3f}]"


def lds_part(name: str, title: str) -> list[str]:
    """Table and picture of an LDS."""
    found = record(name)
    if found is None:
        return []
    said, top = found["settings"], found["ceiling"]
    rows = sorted(found["lds"].items(), key=lambda item: -item[1]["four_runs"]["value"])
    picture = PLACE.docs / "fidelity" / f"{name}.svg"
    several = said["runs"] > 1
    alone = {
        method
        for method, one in rows
        if several and method not in CONTROLS and one["one_run"]["value"] == one["four_runs"]["value"]
    }
    drawn = [
        (NAMES.get(method, method) + " (one run)" * (method in alone), *ends(one["four_runs"]), method in CONTROLS)
        for method, one in rows
    ]
    bars(picture, title, drawn, f"LDS, {said['runs']} runs summed")
    lines = [
        f"### {title}", "",
        f"{said['rows']:,} rows, {found['queries']} queries, {found['subsets']} random halves x {said['seeds']} "
        f"seeds = "
        f"{found['retrains']} retrains ({found['seconds_per_retrain']:.1f} s each); accuracy of the halves "
        f"{found['subset_accuracy']:.2f}; reliability of one retrain {top['reliability']:.3f}, ceiling "
        f"{top['value']:.3f}; retrain "
        f"noise {found['retrain_noise']:.2f}. {found['device']}. "
        f"[JSON](../benchmarks/results/{found['file']})", "",
        f"![{title}](fidelity/{picture.name})", "",
    ]  # fmt: skip
    lead = found.get("default_over_four_runs_minus", {})
    cells = []
    for method, one in rows:
        each = one.get("runs")
        cells.append([
            NAMES.get(method, method) + (" (control)" if method in CONTROLS else ""),
            shown(one["one_run"]), "one run only" if method in alone else shown(one["four_runs"]),
            "-" if method in alone else of_ceiling(one["four_runs"]),
            f"{each['mean']:.3f} +- {each['sd']:.3f}" if each else "-",
            shown(lead[method]) if method in lead and method not in alone else "-",
        ])  # fmt: skip
    heads = ["method", "1 run", f"{said['runs']} runs summed", "of the ceiling", "single runs, mean and spread"]
    return [*lines, table([*heads, "default minus this"], cells), *costs(found)]


def runs_part(name: str) -> list[str]:
    """The default summed over more and more runs, beside the lexical controls."""
    found = record(name)
    if found is None:
        return []
    known = ", ".join(f"{NAMES.get(one, one)} {value:.3f}" for one, value in found["controls"].items())
    lines = [
        f"The default over more runs, on the same {found['retrains']} retrains (ceiling "
        f"{found['ceiling']['value']:.3f}; {known}). "
        f"[JSON](../benchmarks/results/{found['file']})", "",
    ]  # fmt: skip
    controls = ("minus tfidf-sign", "minus bm25-sign")
    rows = [[runs, shown(one), *(shown(one[name]) for name in controls)] for runs, one in found["by_runs"].items()]
    return [*lines, table(["runs summed", "LDS", "minus TF-IDF x label sign", "minus BM25 x label sign"], rows)]


def costs(found: dict) -> list[str]:
    """What each method cost, where it was measured."""
    rows = [(name, one["cost"]) for name, one in found["lds"].items() if "cost" in one]
    if not rows:
        return []
    heads = ["method", "LDS", "checkpoints", "processor ms per training example", "bytes per example", "ms per query"]
    cells = [
        [
            NAMES.get(name, name), f"{found['lds'][name]['one_run']['value']:.3f}", one["checkpoints"],
            f"{one['build_ms_per_example']:.1f}", f"{one['bytes_per_example']:,.0f}", f"{one['ms_per_query']:.0f}",
        ]
        for name, one in rows
    ]  # fmt: skip
    return ["Cost beside quality, one run:", "", table(heads, cells)]


def deletion_part(name: str, title: str) -> list[str]:
    """Table and picture of a case deletion."""
    found = record(name)
    if found is None:
        return []
    gold = found["gold"]
    rows = []
    for method, sides in gold["curves"].items():
        for side, one in sides.items():
            label = "random rows of the same classes" if method == "random" else f"{NAMES.get(method, method)}, {side}"
            rows.append((label, *ends(one["auc_del"]), method in CONTROLS))
    hurt = any("hurt" in sides for sides in gold["curves"].values())
    bars(PLACE.docs / "fidelity" / f"{name}.svg", title, rows, "AUC-DEL, change of the log-odds")
    lines = [
        f"### {title}", "",
        f"{found['settings']['rows']:,} rows, {found['points']} queries, k = {', '.join(map(str, found['k']))}, "
        f"{len(found['seeds'])} seeds, {found['retrains']} retrains; null retrain "
        f"{found['null_retrain_gap']:.1e}; retrain noise "
        f"{'not known from one seed' if gold['retrain_noise'] is None else format(gold['retrain_noise'], '.2f')}. "
        f"{found['device']}. [JSON](../benchmarks/results/{found['file']})", "",
        *([] if found.get("matched_random") or not hurt else [UNMATCHED, ""]),
        *([found["note"], ""] if "note" in found else []), f"![{title}](fidelity/{name}.svg)", "",
    ]  # fmt: skip
    cells = []
    for method, sides in gold["curves"].items():
        for side, one in sides.items():
            other = found["predicted"]["curves"][method][side]["auc_del"]
            against = shown(one["minus_random"]) if "minus_random" in one else "-"
            if side == "hurt" and not found.get("matched_random"):
                against = "withdrawn"  # one draw with the class mix of other rows was subtracted
            where = "-" if method == "random" else side
            cells.append([NAMES.get(method, method), where, shown(one["auc_del"]), against, shown(other)])
    pairs = {pair: sides["helped"] for pair, sides in gold["compared"].items()}
    compared = [[pair, shown(one["ratio"]), shown(one["difference"])] for pair, one in pairs.items()]
    return [
        *lines, table(["method", "side deleted", "gold class", "minus random", "predicted class"], cells),
        table(["compared (helped rows deleted)", "ratio", "difference"], compared), *by_k(found),
    ]  # fmt: skip


def by_k(found: dict) -> list[str]:
    """Change of the gold class and share of flipped predictions for every number of deleted rows, helped side."""
    ks = list(map(str, found["k"]))
    if len(ks) < 2:
        return []
    heads = [f"k = {k}" for k in ks] + [f"flipped, k = {k}" for k in ks]
    rows = []
    for method, sides in found["gold"]["curves"].items():
        figures = (sides["helped"]["by_k"], found["brittleness"][method])
        rows.append([NAMES.get(method, method), *(shown(one[k]) for one in figures for k in ks)])
    return [table(["method", *heads], rows)]


def noise_part() -> list[str]:
    """Layers and aggregations on planted noise."""
    found = record("c")
    if found is None:
        return []
    trained, frozen = found["embedding trained"], found["embedding frozen"]
    best = sorted(trained["rankings"].items(), key=lambda item: -mean(item[1]["auc_ndr"]))
    rows = [
        (
            name.replace(" | ", ", "),
            mean(one["auc_ndr"]),
            min(one["auc_ndr"]),
            max(one["auc_ndr"]),
            name.startswith(("loss", "random")),
        )
        for name, one in best
        if name.endswith("correct")
    ]
    bars(
        PLACE.docs / "fidelity" / "c.svg",
        "Record C: planted noise on TREC, correctly predicted queries",
        rows,
        "AUC_NDR, range of seeds",
    )
    lines = [
        "## C. Layers, aggregations, noise", "",
        f"TREC, {found['settings']['rows']:,} rows, 20 % of the labels replaced, {found['settings']['seeds']} seeds; "
        f"{found['settings']['queries'] // 2} clean queries. Random is .556. Accuracy after filtering the "
        f"lowest 30 % and training "
        f"again stands in the last column; without filtering it is {mean(trained['accuracy']):.2f}. "
        f"[JSON](../benchmarks/results/{found['file']})", "",
        "![planted noise](fidelity/c.svg)", "",
    ]  # fmt: skip
    cells = []
    for name, one in best:
        if not name.endswith("correct"):
            continue
        after = f"{mean(one['accuracy_after']):.3f}" if "accuracy_after" in one else "-"
        figures = (one["auc_ndr"], one["ndr30"], frozen["rankings"][name]["auc_ndr"])
        plain = name.removesuffix(" | correct").replace(" | ", ", ")
        cells.append([plain, *(f"{mean(figure):.3f}" for figure in figures), after])
    heads = ["scores, rule (correct queries only)", "AUC_NDR", "NDR@30", "embedding frozen: AUC_NDR"]
    ratios = [
        [layer, *(f"{mean(kind['cancellation'][layer]):.1f}" for kind in (trained, frozen))]
        for layer in trained["cancellation"]
    ]
    return [
        *lines, table([*heads, "accuracy after"], cells),
        "Cancellation ratio (sum of |g| over |sum of g|, last epoch), mean of the seeds:", "",
        table(["layer", "embedding trained", "embedding frozen"], ratios),
    ]  # fmt: skip


def labels_part() -> list[str]:
    """Label errors that people checked."""
    sets = [(path.stem, json.loads(path.read_text())) for path in sorted(PLACE.results.glob("*-fidelity-d-*.json"))]
    if not sets:
        return []
    lines = ["## D. Label errors that people checked", ""]
    for stem, found in sets:
        for name, one in found["sets"].items():
            lines += [
                f"### {name}", "",
                f"{one['rows']:,} rows, {one['checked']:,} of them checked, {one['errors']} errors; "
                f"out-of-sample accuracy on the "
                f"given labels {one['out_of_sample_accuracy_on_given']:.2f}; cleanlab {found.get('cleanlab', '-')}. "
                f"[JSON](../benchmarks/results/{stem}.json)", "",
            ]  # fmt: skip
            rows = []
            for ranking, figures in sorted(one["rankings"].items(), key=lambda item: -item[1]["roc_auc"]):
                low, high = figures["roc_auc_interval"]
                more = (f"{figures[name]:.3f}" for name in ("average_precision", "precision_at_errors"))
                rows.append([ranking, f"{figures['roc_auc']:.3f} [{low:.3f}, {high:.3f}]", *more])
            heads = ["ranking", "ROC AUC", "average precision", "precision at the number of errors"]
            lines.append(table(heads, rows))
    return lines


def facts_part() -> list[str]:
    """Fact tracing."""
    found = record("e")
    if found is None:
        return []
    lines = [
        "## E. Facts", "",
        f"GPT-2 from scratch on {found['settings']['sentences']:,} linked sentences, {found['facts']} facts "
        f"({found['gold_per_fact']:.1f} sentences each); mean loss of the target "
        f"{found['mean_target_loss']:.2f} nats a token. "
        f"[JSON](../benchmarks/results/{found['file']})", "",
    ]  # fmt: skip
    names = ("mrr", "recall@10", "mrr_minus_bm25", "tail_patch_points")
    rows = [[name, *(shown(one[key]) for key in names)] for name, one in found["methods"].items()]
    return [*lines, table(["method", "MRR", "Recall@10", "MRR minus BM25", "tail-patch, points"], rows)]


def sizes_part() -> list[str]:
    """Small to large."""
    found = record("f")
    if found is None:
        return []
    lines = [
        "## F. Small to large", "",
        f"{found['settings']['mixtures']} mixtures of four sources, {found['settings']['blocks']:,} blocks of "
        f"64 tokens, GPT-2 from "
        f"scratch, {found['settings']['seeds']} seeds. Spearman over the mixtures of the loss of each size with "
        f"that of the largest "
        f"(the largest: one seed with the other). [JSON](../benchmarks/results/{found['file']})", "",
    ]  # fmt: skip
    rows = []
    for size, one in found["transfer"].items():
        about = found["sizes"][size]
        means = (f"{mean(one[name]):.2f}" for name in ("spearman", "without_main_axis", "labels_shuffled"))
        each = (f"{rho:.2f}" for rho in one["spearman"])
        rows.append([size, f"{about['parameters']:,}", f"{about['seconds_per_model']:.1f}", *each, *means])
    heads = ["size", "parameters", "s per model", *found["targets"], "mean", "without the main axis", "labels shuffled"]
    ceiling = found["transfer"]["small"]["seed_ceiling_of_large"]
    return [*lines, table(heads, rows), f"Seed ceiling of the largest size: {mean(ceiling):.2f}.", ""]


def main() -> None:
    """Write the page and its pictures."""
    parser = harness.arguments(__doc__)
    parser.add_argument("--docs", type=Path, default=PLACE.docs, help="folder of the page")
    options = parser.parse_args()
    PLACE.results, PLACE.docs = options.out, options.docs
    lines = [
        "# Measurements",
        "",
        "Reproducible numbers: `benchmarks/fidelity/` holds one command per record. Definitions and controls are in",
        "[evaluation.md](evaluation.md), what the numbers mean for the papers' claims in "
        "[findings.md](findings.md). This page is",
        "generated from the JSON by `benchmarks/fidelity/pictures.py`. 95 % intervals in brackets.",
        "",
        "Records A and C score a plain CNN, which has no index: their scores are those of the script",
        "`cnn_scores.py`, put together from the library's parts, and not of the public API. All other records score",
        "by indexes. In the records of 2026-11-25 and 2026-11-26 controls that read a model (`tfidf-label`,",
        "`embedding`) read that of one run; a method that was scored on one run is not set against sums of four.",
        "",
        "Rows with unit norm in records A and C were measured with training gradients scaled by the norm of",
        "g / (v + eps)^(1/4). The library scales by the norm of g / sqrt(v + eps), and so do the scripts now; those",
        "rows (`unit norm`, `adam-unit`) have not been measured again.",
        "",
    ]
    a = lds_part("a-lds-5000", "LDS, AG News, convolutional classifier, 5,000 rows, 100 queries")
    a += lds_part("a-lds", "LDS, AG News, convolutional classifier, 6,000 rows, 60 queries")
    a += deletion_part("a-deletion", "Case deletion, AG News, convolutional classifier")
    a += deletion_part("a-deletion-all", "Case deletion, AG News, convolutional classifier, every method")
    a += deletion_part("a-deletion-k", "Case deletion, AG News, convolutional classifier, 10 to 100 rows")
    b: list[str] = []
    for name in names("b-*-lds"):
        task, _, model = name.removeprefix("b-").removesuffix("-lds").partition("-")
        b += lds_part(name, f"LDS, {task}, {'MiniLM, fine-tuned' if model == 'minilm' else 'small transformer'}")
        b += runs_part(name.removesuffix("-lds") + "-runs")
    for name in names("b-*-deletion"):
        b += deletion_part(name, f"Case deletion, {name.removeprefix('b-').removesuffix('-deletion')}, transformer")
    lines += ["## A. AG News, convolutional classifier", "", *a, "## B. Transformers", "", *b]
    lines += noise_part() + labels_part() + facts_part() + sizes_part()
    sets = [name.removeprefix("g-").removesuffix("-methods") for name in names("g-*-methods")]
    lines += pictures_g.page(PLACE.docs, sets, record) if sets else []
    lines += pictures_w.words(PLACE.docs, names("w-*"), record)
    lines += [*pictures_h.chat(PLACE.docs, record), *pictures_h.answers(PLACE.docs, names("i-*"), record)]
    (PLACE.docs / "fidelity.md").write_text("\n".join(lines).rstrip() + "\n")


if __name__ == "__main__":
    main()
