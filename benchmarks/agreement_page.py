"""The record of `agreement.py` as a Markdown page."""

AIM = 0.999

HEAD = """# Agreement with other libraries

Written by `benchmarks/agreement.py` · {date} · {machine} · proponent {proponent}, torch {torch} ·
[record](../benchmarks/results/{date}-agreement.json)

A tiny BERT (2 layers of width 32), trained on {train} AG News titles with three checkpoints; {queries} other titles
are the queries. captum 0.9.0, kronfluence 1.0.1 and traker 0.3.2 run in their own environments, on the same
checkpoints, in 32-bit floats. All {train} x {queries} pairs are compared: Pearson's correlation, the mean over the
queries of Spearman's, and the largest difference over the query's largest score. `norms` is the norm of all our scores
over that of theirs.

## Same definition

The aim is a correlation of {aim}.

| ours | peer | Pearson | largest difference | norms | |
|---|---|---|---|---|---|
"""

PROJECTIONS = """
## Random projections

The gradients of {layers} layers ({parameters:,} parameters) of {pairs} pairs, projected with {seeds} seeds to p numbers
a side. The variance is set against its exact value for normal entries on both sides (formula in
`benchmarks/projections.py`): one part falls with 1/p, as for a single projection, one with 1/p^2. An index that was
built with a projection keeps the same numbers (largest difference {same:.0e}).

| p | means within 3 standard errors | largest z | variance over theory | error over norms | variance x p |
|---|---|---|---|---|---|
"""

TRAK = """
All pairs share their seeds, so that the ratios of the variances scatter together (about 10 % for {seeds} draws).
TRAK's own projections (one matrix of +1 and -1 over all parameters, width {width}, {own_seeds} seeds) of its own
gradients, against products of autograd's: {own_within:.0%} within 3 standard errors (largest z {own_z:.1f}), variance
over theory {own_ratio:.2f}.

| TRAK's formula, Phi (Phi^T Phi)^-1 phi^T | Pearson | largest difference |
|---|---|---|
| our inverse autocorrelation (`trackstar`, no moments, no norm), numpy on the same {features} features | {kernel} |
| the same from TRAK's gradients (of log p/(1-p)): (1-p)^2 in the kernel, Q, and the query's (1-p) | {weighed} |
| TRAK as published (kernel without weights, Q, the query's margin): another definition | {published} |
| traker's own scores, numpy on its own features | {own} |
"""

OTHER = """
## Another definition

| ours | peer | Pearson | Spearman | norms | why |
|---|---|---|---|---|---|
"""

WHY = (
    ("", "proponent", "others"),
    ("---", "---", "---"),
    (
        "loss",
        "of one example; a language model's is the mean over its counted tokens (`--set loss=sum`: the sum, as in "
        "`trackstar`)",
        'captum and kronfluence: as the loss function reduces; "mean" divides every gradient by the batch',
    ),
    (
        "biases, gains",
        "left out unless `--set biases=true`, then parameters of their own",
        "captum: in; kronfluence: a bias is one more input of its layer",
    ),
    (
        "learning rate",
        "every checkpoint times the rate that was recorded (`--set weights=constant`: 1)",
        "captum: times what the loading function returns; kronfluence: one checkpoint; TRAK: a mean of checkpoints",
    ),
    (
        "damping",
        "`ekfac`: .1 of a layer's mean eigenvalue (`--set damping=`, `damping_of=`), told in every answer",
        "kronfluence: 1e-8, or .1 of the mean for `damping_factor=None`; TRAK: none",
    ),
    (
        "labels of the Fisher matrix",
        "those of the data",
        "kronfluence: drawn from the model, or those of the data; TRAK: none, its gradients are of the margin",
    ),
    (
        "input factor of EK-FAC",
        "positions that have a gradient",
        "kronfluence: every position that is no padding",
    ),
    ("measure", "loss of the query", "TRAK: log p/(1-p) of the query; the others: as told"),
)


def page(record: dict) -> str:
    """Write the page."""
    parts = [HEAD.format(**record, **{k: record["versions"][k] for k in ("proponent", "torch")}, aim=AIM)]
    parts += [_same(name, one) for name, one in record["same"].items()]
    made = record["projections"]
    parts.append(PROJECTIONS.format(**made, same=made["index_is_projection"]))
    parts += [
        f"| {p} | {one['within_3_se']:.0%} | {one['largest_z']:.1f} | {one['variance_over_theory']:.2f} | "
        f"{one['error_over_norms']:.3f} | {one['variance_times_p']:.2f} (theory {one['theory_times_p']:.2f}) |\n"
        for p, one in made["widths"].items()
    ]
    parts += [_trak(made), OTHER]
    parts += [
        f"| `{name}` | {one['peer']}: {one['failed']} | | | | {one['why']} |\n"
        if "failed" in one
        else f"| `{name}` | {one['peer']} | {one['pearson']:.4f} | {one['spearman']:.3f} | {one['norm_ratio']:.3g} | "
        f"{one['why']} |\n"
        for name, one in record["other"].items()
    ]
    return "".join([*parts, "\n", *(f"| {' | '.join(row)} |\n" for row in WHY)])


def _same(name: str, one: dict) -> str:
    if "failed" in one:
        return f"| `{name}` | {one['peer']} | {one['failed']} | | | **not met** |\n"
    met = "**met**" if one["pearson"] >= AIM else "**not met**"
    return (
        f"| `{name}` | {one['peer']} | {_near_one(one['pearson'])} | {one['largest_difference']:.0e} | "
        f"{one['norm_ratio']:.6f} | {met} |\n"
    )


def _near_one(value: float) -> str:
    """A correlation; how far it is from 1, where digits would only be nines."""
    return f"1 - {1 - value:.0e}" if value > AIM else f"{value:.4f}"


def _trak(made: dict) -> str:
    own, formula = made["traker"], made["trak"]
    failed = "failed" in own

    def said(one: dict) -> str:
        return f"{_near_one(one['pearson'])} | {one['largest_difference']:.0e}"

    return TRAK.format(
        seeds=made["seeds"],
        width="-" if failed else own["width"],
        own_seeds=0 if failed else own["seeds"],
        own_within=float("nan") if failed else own["within_3_se"],
        own_z=float("nan") if failed else own["largest_z"],
        own_ratio=float("nan") if failed else own["variance_over_theory"],
        features=formula["features"],
        kernel=said(formula["kernel"]),
        weighed=said(formula["weighed kernel and Q"]),
        published=f"{formula['as published']['pearson']:.4f} | -",
        own=f"{own['failed']} | -" if failed else said(own["formula"]),
    )
