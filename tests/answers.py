"""A made-up answer about news topics, for every test of a view."""

import re
from dataclasses import replace

from proponent.types import Span
from proponent.views import (
    ActionReport,
    BaselineHit,
    CheckpointView,
    Evidence,
    EvidenceRow,
    Explanation,
    Figure,
    Hit,
    LabelReport,
    MethodFigures,
    QueryView,
    RankingRecall,
    Story,
    Suspect,
    WordPair,
)
from proponent.views.bias import (
    AnswerBias,
    BiasEvidence,
    BiasReport,
    BiasSummary,
    BiasTest,
    Shuffled,
    WeightSummary,
    WordLabel,
    WordUse,
)
from proponent.views.comparison import ComparisonReport, FigureTable
from proponent.views.counted_scores import ScoreCounts
from proponent.views.plot import Band, Plot
from proponent.views.poison import PoisonReport, PoisonSuspect, RetrainedModel, TriggerWord

QUERY = "Retail sales slid in August as shoppers waited for tax rebates, the Commerce Department said."

# text, given label, predicted label, score, words with their shares
HELPED = (
    (
        "U.S. retail sales fell 0.3 percent in August, the Commerce Department said, as shoppers bought fewer cars.",
        "Business",
        "Business",
        0.412,
        {
            "sales": 0.131,
            "retail": 0.094,
            "Commerce": 0.071,
            "August": 0.052,
            "shoppers": 0.041,
            "Department": 0.022,
            "said": 0.009,
            "the": 0.004,
            "in": 0.003,
            "as": -0.016,
        },
    ),
    (
        "Sales at big retail chains rose less than analysts had hoped; tax rebates were spent on petrol.",
        "Business",
        "Business",
        0.287,
        {"Sales": 0.12, "retail": 0.101, "rebates": 0.048, "tax": 0.025, "for": 0.0},
    ),
    (
        "Tax rebates lift shoppers' mood as August ends",
        "Business",
        "Business",
        0.161,
        {"rebates": 0.07, "Tax": 0.06, "shoppers": 0.04, "as": -0.017, "August": 0.008},
    ),
    (
        "Commerce Department: durable goods orders up",
        "Business",
        "World",
        0.094,
        {"Commerce": 0.06, "Department": 0.044, "[special]": -0.01},
    ),
    (
        "Shoppers slid on ice outside the retail park; three were hurt, police said.",
        "Business",
        "World",
        0.041,
        {"Shoppers": 0.03, "retail": 0.021, "slid": -0.012, "the": 0.001, "said": 0.001},
    ),
)
HURT = (
    (
        "The vote slid into chaos in August as tax protests shut the capital, the interior department said.",
        "World",
        "World",
        -0.305,
        {
            "slid": -0.144,
            "August": -0.083,
            "tax": -0.05,
            "said": -0.035,
            "the": -0.012,
            "department": -0.011,
            "in": 0.01,
            "as": 0.02,
        },
    ),
    (
        "Rebates for rebels: shoppers of arms waited at the border",
        "World",
        "World",
        -0.12,
        {"Rebates": -0.08, "waited": -0.05, "shoppers": 0.022, "for": -0.012},
    ),
    (
        "Retail park attacked, ministry says sales of fuel are halted",
        "World",
        "World",
        -0.066,
        {"Retail": -0.046, "sales": -0.034, "of": 0.014},
    ),
    (
        "August transfer sales: the striker waited until the last hour",
        "Sports",
        "Sports",
        -0.021,
        {"August": -0.02, "waited": -0.011, "sales": 0.01},
    ),
)


def spans(text: str, word: str) -> tuple[Span, ...]:
    """Every place of a word in a text, whatever its case; none for special tokens."""
    found = re.finditer(rf"\b{re.escape(word)}\b", text, re.IGNORECASE)
    return tuple((match.start(), match.end()) for match in found)


def make_hit(rank: int, row: int, text: str, label: str, predicted: str, score: float, words: dict[str, float]) -> Hit:
    pairs = tuple(
        WordPair(
            query_word=word.lower() if word != "Commerce" else word,
            train_word=word,
            share=share,
            query_spans=spans(QUERY, word)[:1],
            train_spans=spans(text, word)[:2],
        )
        for word, share in words.items()
    )
    parts = (0.5 * score, 0.7 * score, -0.2 * score)
    return Hit(
        rank=rank, id=f"ag-{row}", row=row, score=score, text=text, label=label, predicted=predicted,
        by_checkpoint=parts, words=pairs,
    )  # fmt: skip


def make_answer() -> Explanation:
    """A wrong prediction on a news text, explained by TracIn-WE; shares of a hit need not sum to its score here."""
    return Explanation(
        version="0.1.0",
        method="tracin-we",
        checkpoints=tuple(
            CheckpointView(step, rate, "recorder") for step, rate in ((200, 4.2e-05), (400, 2.1e-05), (600, 1.5e-07))
        ),
        embedding_path="exact",
        loss="mean",
        query=QueryView(
            text=QUERY,
            label="Business",
            against="World",
            predicted="World",
            probabilities={"World": 0.53, "Business": 0.38, "Sci/Tech": 0.06, "Sports": 0.03},
            loss=0.9676,
        ),
        proponents=tuple(make_hit(at + 1, 1042 + 977 * at, *hit) for at, hit in enumerate(HELPED)),
        opponents=tuple(make_hit(at + 1, 311 + 1501 * at, *hit) for at, hit in enumerate(HURT)),
        baselines={
            "bm25": tuple(BaselineHit(id=f"ag-{row}", row=row, score=20.0 - at)
                          for at, row in enumerate((1042, 88, 2019, 4001, 5))),
            "embedding": tuple(BaselineHit(id=f"ag-{row}", row=row, score=0.9 - 0.1 * at)
                               for at, row in enumerate((2019, 1042, 2996, 12, 3))),
        },
        notes=("2 of 7,600 training examples were left out: their gradient is not finite (rows 17 and 3,340).",),
        n_examples=7600,
    )  # fmt: skip


def make_counted_answer() -> Explanation:
    """The same answer with the scores of all training examples."""
    counts = (3, 0, 7, 610, 6200, 700, 60, 12, 5, 1)
    return replace(make_answer(), score_counts=ScoreCounts(-0.45, 0.45, counts, left_out=2))


def make_pair_answer() -> Explanation:
    """The same answer for pairs of texts: every optional field is there."""
    answer = make_answer()
    pair = replace(
        answer.proponents[0].words[0],
        query_pair_spans=((0, 5),),
        train_pair_spans=((4, 9),),
        query_spans=(),
        train_spans=(),
    )
    hit = replace(answer.proponents[0], text_pair="Big sales\nare\nover", words=(pair, *answer.proponents[0].words[1:]))
    target = replace(answer.opponents[0], target="says the prompt")
    query = replace(answer.query, text_pair="sales went down", target="so it is", truncated_at=60)
    return replace(
        answer, query=query, proponents=(hit, *answer.proponents[1:]), opponents=(target, *answer.opponents[1:])
    )


def make_text_answer() -> Explanation:
    """An answer about a language model's text: no labels, no probabilities, nothing that hurt."""
    answer = make_answer()
    query = QueryView(text=QUERY, target="slid in August", label=None, predicted=None, probabilities=None, loss=2.5)
    helped = tuple(
        replace(hit, label=None, predicted=None, target="over", by_checkpoint=()) for hit in answer.proponents
    )
    return replace(answer, query=query, proponents=helped, opponents=(), baselines={}, notes=(), embedding_path="input")


def make_labels() -> LabelReport:
    """Three suspected label errors, one of them without a better label."""
    hits = (*make_answer().proponents[3:], make_answer().opponents[3])
    return LabelReport(
        ranking="self-influence",
        n_examples=7600,
        rows=tuple(
            Suspect(
                rank=at + 1,
                id=hit.id,
                row=hit.row,
                text=hit.text,
                given_label=hit.label or "",
                predicted_label=hit.predicted,
                suggested_label=hit.predicted if hit.mislabelled else None,
                label_score=0.02 + 0.11 * at,
                is_label_issue=hit.mislabelled,
            )
            for at, hit in enumerate(hits)
        ),
        notes=("A label is flagged when the model, trained without its row, gives it less than 10%.",),
    )


def make_bias() -> BiasReport:
    """Words that give the label away, with weights, a test and words by use."""
    rows = tuple(
        WordLabel("text", word, label, n, share, z, z_weighted=z / 40, heldout_n=n // 4, z_heldout=held)
        for word, label, n, share, z, held in (
            ("nobody", "contradiction", 91, 0.93, 11.6, 5.2),
            ("outdoors", "entailment", 204, 0.71, 11.3, 6.1),
            ("nobody", "entailment", 91, 0.02, -6.1, -2.9),
            ("a", "neutral", 9004, 0.334, 0.2, None),
        )
    )
    return BiasReport(
        data="pairs.csv",
        examples=12_589,
        labels=("contradiction", "entailment", "neutral"),
        min_count=20,
        summaries=(
            BiasSummary("words", "data", 3930, 555, 0.96, 19.0, Shuffled(185.0, 150, 221, 4.4)),
            BiasSummary("words", "data, weighted", 3930, 20, 0.03, 3.9),
        ),
        rows=rows,
        weights=WeightSummary("fitted", 5001.0, 0.397, 0.023, 15.97, (("entailment", 0.342, 0.332),)),
        test=BiasTest("runs/nli", 0.61, 0.031, 0.0002, 0.001, 1000, 0, 142, (("entailment", 0.03), ("neutral", None))),
        use=(WordUse("nobody", 0.5, -0.1, 3, 11.6, "contradiction"), WordUse("zebra", 0.2, 0.2, 1, None, None)),
        answers=(AnswerBias("q1", "Nobody sleeps", "neutral", 0.4, -0.1, 0.25, ("nobody", "sleeps")),),
        evidence=(BiasEvidence("text", "nobody", "snli-7", 7, "A man | Nobody sleeps", "contradiction"),),
        notes=("3 words occur with one label only: no weights can balance them",),
    )


def make_action() -> ActionReport:
    figures = (Figure("errors mended", 0.4, 0.3, 0.5), Figure("clean accuracy", 0.9), Figure("change", None))
    rows = (EvidenceRow("n<7>", "Sports & more", 3.0, "The cup\x1b[2J <b>and</b> the bank"),)
    return ActionReport(
        metric="mend",
        title="Wrong predictions mended",
        said="A copy takes 3 steps.",
        columns=("errors mended", "clean accuracy", "change"),
        rows=(
            MethodFigures("tracin-we", False, figures, "yes (random rows: 0.200 [0.100, 0.300])"),
            MethodFigures("random rows", True, figures),
        ),
        facts=(("seeds", "3"),),
        notes=("6 of 60 rows are wrong",),
        evidence=(Evidence("Rows that were chosen most often", "steps", rows),),
    )


def make_comparison() -> ComparisonReport:
    figures = (Figure("tests/<b>one</b>", 0.4, 0.3, 0.5), Figure("two", -0.1))
    rows = (MethodFigures("web\x1b[2J & <i>more</i>", False, figures), MethodFigures("books", False, figures))
    band = Band("web <script>", (0.0, 2.0), (0.0, 0.4), (0.0, 0.3), (0.0, 0.5))
    agreed = (MethodFigures("UnTrac", False, (Figure("Pearson", 0.9),)), MethodFigures("GradDot", True, figures[:1]))
    return ComparisonReport(
        metric="unlearn",
        unit="corpus",
        title="Influence of corpora on test sets",
        said="UnTrac: change of the loss.",
        columns=("tests/<b>one</b>", "two"),
        rows=rows,
        others=(
            FigureTable("UnTrac-Inv: change", "corpus", ("tests/<b>one</b>", "two"), rows),
            FigureTable("Agreement", "method", ("Pearson",), agreed),
        ),
        plots=(Plot((band,), "steps", "loss on <b>one</b>", "bands span the seeds"),),
        facts=(("seeds", "3"),),
        notes=("the ascent on web ended",),
    )


def make_poison() -> PoisonReport:
    """Triggers, rows and models, with known poison."""
    figures = (Figure("AUPRC", 0.9, 0.8, 1.0), Figure("AUROC", 0.97), Figure("AUPRC in class", None))
    parts = {"trigger": 19.7, "deletion": 4.1, "certainty": 3.0, "influence": -0.1}
    how = {"flagged": True, "strength": 0.2, "change": 0.1, "votes": 2}
    success = Figure("attack success", 0.98, 0.95, 1.0)
    return PoisonReport(
        metric="poison",
        title="1 trigger word and 2 of 3 rows flagged as poison",
        said="A candidate is inserted into rows of other classes.",
        columns=("AUPRC", "AUROC", "AUPRC in class"),
        rows=(
            MethodFigures("proponent poison", False, figures, "yes (word-label z: +0.200 [0.100, 0.300])"),
            MethodFigures("word-label z", True, figures),
        ),
        facts=(("classes", "good, <b>bad</b>"),),
        notes=("no clean rows were given",),
        words=(
            TriggerWord(
                word="cf<i>", where="first word", label="good", flagged=True, strength=19.7, z=7.5, effect=3.9,
                turned=0.53, share=None, rows=60, others=0,
            ),
        ),
        suspects=tuple(
            PoisonSuspect(
                rank=at + 1, id=f"n<{at}>", row=at, label="good & bad", text="cf The cup\x1b[2J <b>and</b>",
                suspicion=3.0 - at, words=("cf",), parts=parts,
                **(how if at < 2 else dict.fromkeys(how) | {"flagged": False}),
            )
            for at in range(3)
        ),
        retrained=(RetrainedModel(name="the run as it is", dropped=0, success=success, accuracy=success),),
    )  # fmt: skip


def make_story() -> Story:
    """The page of a demo."""
    return Story(
        title="Where does this output come from?",
        lead=(
            "A small transformer was trained on 7,600 news texts in four topics; 380 labels are wrong on purpose.",
            "It calls a text about retail sales World news. Below are the training examples that speak for and "
            "against Business, and the words in them that did it.",
        ),
        answer=make_answer(),
        labels=make_labels(),
        recall=(
            RankingRecall(name="self-influence", share_in_first_tenth=0.71, note="TracIn-WE of an example on itself"),
            RankingRecall(name="loss", share_in_first_tenth=0.64, note="training loss"),
            RankingRecall(name="random", share_in_first_tenth=0.098, note="the control"),
        ),
        facts=(("training examples", "7,600"), ("accuracy", "88.4%"), ("index", "11 s"), ("this answer", "6 ms")),
    )
