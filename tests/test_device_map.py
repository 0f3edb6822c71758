"""Models split over several devices: pretended cards give the CPU's bits, and what cannot be split is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import accelerate
import accelerate.hooks
import numpy as np
import peft
import pytest
import torch
import transformers

import answered
import proponent
import runs
from cases import collate, encoded, make
from pretend_device import largest_tensors, pretend_device
from proponent.data import read
from proponent.errors import InputError, MissingExtraError
from proponent.gradients import token_losses
from proponent.gradients.capture import Capture
from proponent.gradients.output_layer import OutputLayer
from proponent.models import Run
from proponent.models.device_map import place, placed, settled, without_hooks
from proponent.models.placement import Placement, device_of, devices_of
from proponent.models.tasks.causal_lm import CausalLM
from proponent.training.rerun import FRESH, RunProblem

pytestmark = pytest.mark.filterwarnings("ignore")
Said = Callable[..., tuple[int, str, str]]
LINES = [{"id": row["id"], "text": row["text"]} for row in runs.ROWS]
ROWS = runs.ROWS[:9]
FIRST, SECOND = "cuda:0", "cuda:1"
OF_CLASSES = (
    "tracin-we", "tracin-we-idf", "tracin-we-adam-unit", "tracin-last", "tracin-all", "grad-cos", "ekfac", "datainf",
    "trackstar", "representer", "fastif",
)  # fmt: skip
OF_TOKENS = ("tracin-we", "tracin-we-idf", "tracin-last", "tracin-all", "grad-cos", "ekfac")
FASTIF = {"layers": "all", "solver": "cg", "damping": 0.1}
BERT = {
    "bert.embeddings": FIRST, "bert.encoder.layer.0": FIRST, "bert.encoder.layer.1": SECOND,
    "bert.encoder.layer.2": SECOND, "bert.pooler": FIRST, "classifier": SECOND,
}  # fmt: skip
GPT2 = {"": SECOND, "transformer.wte": FIRST, "transformer.h.0": FIRST, "lm_head": FIRST}
LLAMA = {
    "model.embed_tokens": SECOND, "model.layers.0": FIRST, "model.layers.1": SECOND, "model.layers.2": FIRST,
    "model.norm": SECOND, "model.rotary_emb": FIRST, "lm_head": FIRST,
}  # fmt: skip


def bert(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = runs.bert_tokenizer()
    names = dict(enumerate(runs.LABELS))
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=runs.MAX_LENGTH, pad_token_id=tokenizer.pad_token_id, id2label=names,
        label2id={name: at for at, name in names.items()},
    )  # fmt: skip
    return answered.saved(folder, transformers.BertForSequenceClassification(config).eval(), tokenizer)


def gpt2(folder: Path) -> Path:
    torch.manual_seed(0)
    tokenizer = runs.gpt2_tokenizer()
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_embd=16, n_layer=3, n_head=2, n_positions=runs.MAX_LENGTH,
        pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return answered.saved(folder, transformers.GPT2LMHeadModel(config).eval(), tokenizer)


def llama_model(tokenizer: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    sizes |= {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, "num_key_value_heads": 1}
    sizes |= {"max_position_embeddings": runs.MAX_LENGTH, "tie_word_embeddings": False}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes | settings)).eval()


def llama(folder: Path, **settings: Any) -> Path:
    tokenizer = runs.gpt2_tokenizer()
    return answered.saved(folder, llama_model(tokenizer, **settings), tokenizer)


def lora(folder: Path, **settings: Any) -> Path:
    """An untrained adapter whose second factors are not zero."""
    base = llama(folder.parent / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    targets = {"target_modules": ["q_proj", "down_proj"]} | settings
    adapted: Any = peft.get_peft_model(model, peft.LoraConfig(r=2, task_type="CAUSAL_LM", **targets))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, one in adapted.named_parameters():
            if "lora_" in name:
                one.normal_(std=0.3)
    adapted.save_pretrained(folder)
    runs.gpt2_tokenizer().save_pretrained(folder)
    return folder


def answers(run: Any, rows: Any, asked: Any, method: str, out: Path, **how: Any) -> tuple[Any, list[Any]]:
    """Scores of some questions, and the words of their answers."""
    how = {"quiet": True, "batch_size": 4, "second_moment": "estimate"} | how
    index = proponent.build(run, rows, out, method, **how)
    why = [*index.explain_many(read(asked), k=2)]
    return np.asarray(index.scores(read(asked))), [
        (hit.id, hit.score, hit.words) for one in why for hit in one.proponents
    ]


def compare(
    folder: Path, rows: Any, asked: Any, method: str, out: Path, modules: Any, *, limit: Any = None, **how: Any
) -> None:
    """Split over two pretended cards as on the CPU."""
    here = answers(Run.from_pretrained(folder, device="cpu"), rows, asked, method, out / "cpu", **how)
    with pretend_device(cards=2):
        run = Run.from_pretrained(folder, device_map=modules, max_memory=limit)
        assert run.placement.split
        there = answers(run, rows, asked, method, out / "cards", **how)
    assert np.nanmax(np.abs(here[0])) > 0
    if method == "fastif":  # a second derivative of a split model is summed in another order
        np.testing.assert_allclose(there[0], here[0], rtol=1e-5)
        return
    assert np.array_equal(here[0], there[0], equal_nan=True)
    assert here[1] == there[1]


@pytest.mark.parametrize("method", OF_CLASSES)
def test_methods_of_a_classifier(method: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = FASTIF if method == "fastif" else {}
    compare(bert(tmp_path / "run"), ROWS, runs.OTHERS[:2], method, tmp_path, BERT, **changes)


@pytest.mark.parametrize("method", OF_TOKENS)
def test_methods_of_a_language_model_with_a_tied_table(method: str, tmp_path: Path) -> None:
    compare(gpt2(tmp_path / "run"), LINES[:9], LINES[:1], method, tmp_path, GPT2)


@pytest.mark.parametrize("method", OF_TOKENS)
def test_methods_of_a_language_model_with_two_tables(method: str, tmp_path: Path) -> None:
    compare(llama(tmp_path / "run"), LINES[:9], LINES[:1], method, tmp_path, LLAMA)


@pytest.mark.parametrize(
    "targets", [["q_proj", "down_proj"], ["v_proj", "embed_tokens", "lm_head"]], ids=["layers", "tables"]
)
@pytest.mark.parametrize("method", ["tracin-all", "grad-cos", "ekfac"])
def test_adapters(method: str, targets: list[str], tmp_path: Path) -> None:
    folder = lora(tmp_path / "run", target_modules=targets)
    compare(folder, LINES[:9], LINES[:1], method, tmp_path, LLAMA)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True, "modules_to_save": ["lm_head"]},
        {"use_dora": True, "target_modules": ["embed_tokens", "v_proj", "lm_head"]},
        {"trainable_token_indices": [3, 5, 8]},
    ],
    ids=["magnitudes", "magnitudes of tables", "tokens"],
)
def test_kinds_of_adapters(settings: dict[str, Any], tmp_path: Path) -> None:
    compare(lora(tmp_path / "run", **settings), LINES[:9], LINES[:1], "grad-cos", tmp_path, LLAMA)


def test_an_encoder_and_decoder_by_a_rule(tmp_path: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    torch.manual_seed(0)
    sizes = {"vocab_size": len(tokenizer), "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_heads": 2}
    pad = tokenizer.pad_token_id
    config = transformers.T5Config(**sizes, pad_token_id=pad, decoder_start_token_id=pad)
    folder = answered.saved(tmp_path / "run", transformers.T5ForConditionalGeneration(config).eval(), tokenizer)
    rows = [{"id": row["id"], "text": row["text"], "target": row["text"].split()[0]} for row in ROWS]
    for method in ("tracin-we", "grad-cos"):
        compare(folder, rows, rows[:1], method, tmp_path / method, "auto", limit="60KB")


@pytest.mark.parametrize("rule", ["auto", "balanced", "balanced_low_0", "sequential"])
def test_rules_split_by_memory(rule: str, tmp_path: Path) -> None:
    folder = llama(tmp_path / "run", num_hidden_layers=12)
    compare(folder, LINES[:9], LINES[:1], "grad-cos", tmp_path, rule, limit={0: "110KB", "cuda:1": 110_000})


def test_a_rule_leaves_a_small_model_on_one_card_and_takes_the_cpu_without_one(lm_run: Path) -> None:
    with pretend_device(cards=2):
        run = Run.from_pretrained(lm_run, device_map="sequential")
        assert run.placement.devices == (FIRST,)
        assert not run.placement.split
        assert {one.type for one in devices_of(run.load(run.checkpoints[-1]))} == {"cuda"}
    assert Run.from_pretrained(lm_run, device_map="auto").placement == Placement()


def test_every_checkpoint_is_split_alike_and_the_index_says_where(bert_run: Path, tmp_path: Path) -> None:
    wide = proponent.build(bert_run, ROWS, tmp_path / "cpu", "tracin-we", device="cpu", quiet=True)
    modules = {"": SECOND, "bert.embeddings": FIRST}
    (tmp_path / "map.json").write_text(json.dumps(modules))
    with pretend_device(cards=2):
        run = Run.from_pretrained(bert_run, device_map=tmp_path / "map.json")
        for one in run.checkpoints:
            model: Any = run.load(one)
            assert [str(each) for each in devices_of(model)] == [FIRST, SECOND]
            assert str(model.classifier.weight.device) == SECOND
        index = proponent.build(bert_run, ROWS, tmp_path / "cards", "tracin-we", device_map=modules, quiet=True)
        assert len(index.store.plan.checkpoints) == 3
        (note,) = [one for one in index.store.manifest.notes if "computed on" in one]
        assert f"{FIRST} (a pretended device), {SECOND} (a pretended device), float32" in note
        assert np.array_equal(index.scores(["the match"]), wide.scores(["the match"]))
        again = proponent.open(tmp_path / "cpu", device_map=modules)
        assert np.array_equal(again.scores(["the match"]), wide.scores(["the match"]))
        with pytest.raises(InputError, match="those of the run"):
            proponent.build(run, ROWS, tmp_path / "no", device_map=modules, quiet=True)


def test_half_precision_of_a_split_model(tmp_path: Path) -> None:
    folder = llama(tmp_path / "run")
    with pretend_device(cards=2):
        halves = [
            answers(
                Run.from_pretrained(folder, dtype="bfloat16", **how), LINES[:9], LINES[:1], "grad-cos", tmp_path / at
            )
            for at, how in (("one", {"device": FIRST}), ("two", {"device_map": LLAMA}))
        ]
    assert np.array_equal(halves[0][0], halves[1][0])


def test_an_answer_is_written_by_a_split_model(tmp_path: Path) -> None:
    folder = llama(tmp_path / "run")
    rows = [{"id": one["id"], "text": one["text"], "target": "the match"} for one in ROWS]
    said: list[str] = []
    with pretend_device(cards=2):
        for at, how in (("one", {"device": "cpu"}), ("two", {"device_map": LLAMA})):
            index = proponent.build(folder, rows, tmp_path / at, "tracin-we", quiet=True, **how)
            said.append(json.dumps(index.explain("The bank", generate=True).to_dict()["query"]))
    assert said[0] == said[1]


def split_alike(model: Any, modules: Any) -> Any:
    """The model over two devices; its shapes are checked as those of a run."""
    return place(model, settled(Placement(device_map=tuple(modules.items())), model, Path()))


def test_no_card_holds_the_logits_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    vocabulary, positions = 3000, 20
    monkeypatch.setattr(token_losses, "BLOCK_BYTES", 4 * vocabulary * 4)
    batch = collate(encoded(0, (positions,) * 6, lm=True))
    found: list[list[int]] = []
    with pretend_device(cards=2):
        model = make("llama", "ForCausalLM", vocab_size=vocabulary).requires_grad_(False).eval()
        modules = {"": SECOND, "model.embed_tokens": FIRST, "model.layers.0": FIRST}
        model = split_alike(model, modules)
        moved = batch.to(FIRST)
        loss = CausalLM().objective(moved)
        for output in (OutputLayer(model), None):
            largest_tensors()
            Capture(model, output=output)(moved.inputs, loss.losses, moved.words, None, loss.terms())
            found.append(largest_tensors())
        table = model.lm_head.weight.nbytes
    assert max(found[0]) <= table
    assert min(found[1]) >= 6 * positions * vocabulary * 4  # they are sent back to where the batch came from


def test_hooks_of_accelerate_without_any_pretence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients under accelerate's own hooks, as it attaches them to a real split model; here all lead to the CPU."""
    moved: list[str] = []
    real = accelerate.hooks.AlignDevicesHook.pre_forward

    def pre_forward(self: Any, module: Any, *args: Any, **named: Any) -> Any:
        moved.append(type(module).__name__)
        return real(self, module, *args, **named)

    monkeypatch.setattr(accelerate.hooks.AlignDevicesHook, "pre_forward", pre_forward)
    batch = collate(encoded(0, (7, 5, 6), lm=True))
    loss = CausalLM().objective(batch)
    made: list[Any] = []
    for hooked in (False, True):
        model: Any = make("llama", "ForCausalLM").requires_grad_(False).eval()
        if hooked:
            names = [name for name, _ in model.model.named_children() if name != "layers"]
            modules = [*(f"model.{name}" for name in names), "model.layers.0", "model.layers.1", "lm_head"]
            accelerate.dispatch_model(model, dict.fromkeys(modules, "cpu"), force_hooks=True)
        captured = Capture(model, output=OutputLayer(model))(batch.inputs, loss.losses, batch.words, None, loss.terms())
        assert captured.rows is not None
        made.append((captured.losses, captured.rows.rows))
        assert bool(moved) == hooked
    assert {"LlamaForCausalLM", "LlamaDecoderLayer", "Embedding", "Linear"} <= set(moved)
    assert all(np.array_equal(one, other) for one, other in zip(*made, strict=True))
    unhooked = without_hooks(model)
    assert not any("forward" in vars(one) or hasattr(one, "_hf_hook") for one in unhooked.modules())


def test_a_map_with_the_cpu_alone(bert_run: Path) -> None:
    run = Run.from_pretrained(bert_run, device_map={"": "cpu"})
    assert run.placement.plain
    assert device_of(run.load(run.checkpoints[-1])).type == "cpu"


ROOM = 2**22


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"": "cuda:7"}, "puts the model on 'cuda:7': this machine has cpu, cuda:0, cuda:1"),
        ({"": 0, "lm_head": "cude:1"}, "puts lm_head on 'cude:1': this machine has cpu, cuda:0, cuda:1"),
        ({"": 0, "lm_head": "disk"}, "puts lm_head on disk: weights that are not in memory give no gradients"),
        ({"": 0, "model.layers.2": "cpu"}, "puts model.layers.2 on the CPU beside a GPU"),
        ({"model.layers": 0, "lm_head": 1}, "no device for model.embed_tokens, model.norm"),
        ({"": 0, "model.layer.0": 1}, "names 'model.layer.0', which LlamaForCausalLM does not have.*'model.layers.0'"),
        ({"": 0, "model.layers.1.mlp": 1}, r"splits model.layers.1 \(LlamaDecoderLayer\) over cuda:0 and cuda:1"),
        ("balancd", r"'balancd' \(did you mean 'balanced'\?\): it is neither a rule"),
        ({}, "give a JSON object of modules and devices, or one of auto"),
    ],
)
def test_maps_that_are_refused(modules: Any, message: str, tmp_path: Path) -> None:
    with pretend_device(cards=2), pytest.raises(InputError, match=message):
        Run.from_pretrained(llama(tmp_path / "run"), device_map=modules)


def test_one_table_on_two_devices_is_refused(tmp_path: Path) -> None:
    with (
        pretend_device(cards=2),
        pytest.raises(InputError, match=r"wte.weight on cuda:0 and lm_head.weight on cuda:1.*one table"),
    ):
        Run.from_pretrained(gpt2(tmp_path / "run"), device_map={"": 0, "lm_head": 1})


@pytest.mark.parametrize(
    ("room", "how", "message"),
    [
        (
            (30_000, 30_000),
            {"device_map": "auto"},
            r"model of 0\.1 MB does not fit: no room is left for .*, with cuda:0 0\.0 MB",
        ),
        ((ROOM, ROOM), {"device_map": "auto", "max_memory": "20KB"}, "does not fit: no room is left for"),
        ((ROOM, 10_000), {"device_map": LLAMA}, r"cuda:1 \(a pretended device\) has 0.0 MB free.*no room from model\."),
        ((ROOM, ROOM), {"device_map": LLAMA, "max_memory": "1GB"}, "is for a rule such as auto"),
        ((ROOM, ROOM), {"max_memory": "1GB"}, "add --device-map auto"),
        ((ROOM, ROOM), {"device_map": "auto", "max_memory": "a lot"}, "give bytes, or a size such as 20GiB"),
        ((ROOM, ROOM), {"device_map": "auto", "max_memory": 0}, "give a size above 0"),
        (
            (ROOM, ROOM),
            {"device_map": "auto", "max_memory": {"cpu": "1GB"}},
            "names 'cpu': the GPUs of this machine are",
        ),
        ((ROOM, ROOM), {"device_map": "auto", "device": "cuda:1"}, "exclude each other"),
    ],
)
def test_memory_that_does_not_suffice(room: Any, how: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pretend_device(room=room), pytest.raises(InputError, match=message):
        Run.from_pretrained(llama(tmp_path / "run"), **how)


def test_accelerate_is_named_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "accelerate", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'proponent\[train\]'"):
        placed(device_map="auto")
    assert placed("cpu") == Placement()


def test_what_trains_needs_one_device(bert_run: Path, tmp_path: Path) -> None:
    rows = list(read(runs.ROWS))
    with pretend_device(cards=2):
        run = Run.from_pretrained(bert_run, device_map={"": SECOND, "bert.embeddings": FIRST})
        problem = RunProblem(run, rows[:6], rows[-2:], FRESH, run.length(None))
        with pytest.raises(InputError, match="retraining needs the model on one device, and --device-map"):
            problem.fresh(0)
        from proponent.check import check
        from proponent.training.precision import in_32_bits, refuse_half

        with pytest.raises(InputError, match="a replay needs the model on one device"):
            refuse_half(run, "a replay")
        with pytest.raises(InputError, match="needs the model on one device"):
            in_32_bits(run)
        with pytest.raises(InputError, match="--engine ray gives each worker one GPU, and needs"):
            proponent.build(run, ROWS, tmp_path / "index", engine="ray", workers=2, quiet=True)
        with pytest.raises(InputError, match="needs the model on one device"):
            check(run, read(runs.ROWS))


def test_commands_split_a_model(said: Said, bert_run: Path, tmp_path: Path) -> None:
    data, index, modules = tmp_path / "rows.jsonl", tmp_path / "index", tmp_path / "map.json"
    data.write_text("\n".join(map(json.dumps, runs.ROWS)))
    modules.write_text(json.dumps({"": 1, "bert.embeddings": 0}))
    with pretend_device(cards=2):
        split = ("--device-map", modules)
        assert said("index", bert_run, data, "--out", index, *split, "--json")[0] == 0
        code, out, _ = said("explain", index, "the match", *split, "--json")
        assert code == 0
        assert json.loads(out)["proponents"]
        for words in (
            ("explain", index, "a", "--device-map", "auto", "--max-memory", "1KB"),
            ("explain", index, "a", "--device-map", "none"),
        ):
            assert said(*words)[0] == 2
    code, _, err = said("index", bert_run, data, "--out", index, "--device-map", "map", "--device", "cpu")
    assert code == 2
    assert "exclude each other" in " ".join(err.split())
    code, out, _ = said("index", bert_run, data, "--out", index, "--device-map", "auto", "--slurm", "4")
    assert "--gpus-per-task=N" in out
