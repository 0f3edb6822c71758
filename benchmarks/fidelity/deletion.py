"""Case deletion for records A and B: both signs, random control, gold and predicted class, brittleness."""

from math import isfinite

from proponent.evaluate import (
    RANDOM,
    SIDES,
    bootstrap,
    flipped,
    null_gap,
    paired,
    plan_deletions,
    ratio,
    run_deletions,
)
from proponent.training.loop import one_thread


def table(
    scores, labels, query_labels, retrains, points: int, ks, seeds, best: str, floor: str, control: str, sides=SIDES
) -> dict:
    """Retrain and report; `best` is compared with `floor` and with `control` in pairs."""
    plan = plan_deletions(scores, ks, seeds, labels, queries=range(points), sides=sides)
    print(
        f"case deletion: {len({job.name for job in plan.jobs})} models, {len(retrains.missing(plan.jobs))} to train",
        flush=True,
    )
    found: dict = {
        "null_retrain_gap": null_gap(retrains, seeds[0]),
        "matched_random": True,
        "points": points,
        "k": list(ks),
        "seeds": list(seeds),
    }
    for which, classes in (("gold", query_labels), ("predicted", "predicted")):
        result = run_deletions(plan, retrains, classes)
        curves: dict = {}
        drawn = [result.curve(RANDOM, side) for side in sides]  # random rows, the mean over the draws for all methods
        for one in [*drawn, *(one for one in result.curves if one.method != RANDOM)]:
            curves.setdefault(one.method, {})[one.side] = {
                "auc_del": one.auc().to_dict(), "by_k": {str(k): one.at(k).to_dict() for k in ks},
            }  # fmt: skip
        for name in scores:
            for side in sides:
                less = result.minus_random(name, side)
                if len(less):
                    curves[name][side]["minus_random"] = bootstrap(less).to_dict()
        pairs = {
            f"{best} / {other}": _against(result, best, other, sides)
            for other in dict.fromkeys((floor, control, *scores)) if other != best and other in scores
        }  # fmt: skip
        found[which] = {
            "curves": curves,
            "compared": pairs,
            "retrain_noise": result.noise if isfinite(result.noise) else None,
            "skipped": result.skipped,
        }
        found["retrains"] = result.retrains
    found["brittleness"] = {
        name: {
            str(k): bootstrap(flips[[isfinite(one) for one in flips]]).to_dict()
            for k, flips in flipped(plan, retrains, name).items()
        }
        for name in (RANDOM, *scores)
    }
    found["seconds_per_retrain"] = float(retrains.seconds().mean())
    return found


def _against(result, best: str, other: str, sides) -> dict:
    said = {}
    for side in sides:
        mine, theirs = result.curve(best, side).by_query, result.curve(other, side).by_query
        said[side] = {"ratio": ratio(mine, theirs).to_dict(), "difference": paired(mine, theirs).to_dict()}
    return said


def deletion_table(setting, args) -> dict:
    """Record B: scores of all runs summed."""
    with one_thread():
        scores = {name: setting.scores[name][1] for name in args.methods}
    labels = setting.problem.train_labels
    retrains = setting.retrains(keep_places=True)
    return table(
        scores, labels, setting.query_labels, retrains, args.points, args.k, range(args.seeds),
        args.methods[0], "tracin-last", "tfidf-sign", args.sides,
    )  # fmt: skip
