"""Every block of code on the pages for beginners and by task runs, page by page, as a reader would run it."""

import json
import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import chat
import runs
import tiny
from proponent.actions.label_errors import label_errors
from proponent.cli import main
from proponent.store import Store

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("docs/start/*.md"), *ROOT.glob("docs/how-to/*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
pytestmark = pytest.mark.filterwarnings("ignore")

Put = Callable[[Path], None]


def blocks(page: Path) -> list[tuple[str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, news: tiny.Tiny) -> Put:
    """Puts the files of a classifier's pages into a folder: data, a run and its index."""
    home = tmp_path_factory.mktemp("pages")
    tiny.write_csv(home / "train.csv", news.rows)
    tiny.write_csv(home / "clean.csv", [one | {"id": f"c{at}"} for at, one in enumerate(runs.rows(16, seed=3))])
    tiny.write_csv(home / "more.csv", [one | {"id": f"m{at}"} for at, one in enumerate(runs.rows(6, seed=4))])
    tiny.write_csv(home / "test.csv", [one | {"id": f"e{at}"} for at, one in enumerate(runs.rows(12, seed=5))])
    (home / "runs").mkdir()
    shutil.copytree(news.run, home / "runs" / "news")
    shutil.copytree(news.index, home / "news.index")

    def put(folder: Path) -> None:
        shutil.copytree(home, folder, dirs_exist_ok=True)

    return put


def encoder(folder: Path) -> None:
    tokenizer = runs.bert_tokenizer()
    runs.bert(tokenizer).bert.save_pretrained(folder / "my-encoder")
    tokenizer.save_pretrained(folder / "my-encoder")


def chat_model(folder: Path) -> None:
    """A tiny model of conversations with the layers that the page names."""
    transformers = pytest.importorskip("transformers")
    for name in ("trl", "datasets", "peft"):
        pytest.importorskip(name)
    tokenizer = chat.tokenizer(chat.MARKED)
    sizes: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 128}
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ends |= {"pad_token_id": tokenizer.pad_token_id, "vocab_size": len(tokenizer)}
    made = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, **heads, **ends))
    made.save_pretrained(folder / "my-chat-model")
    tokenizer.save_pretrained(folder / "my-chat-model")
    rows = [{"messages": one} for one in chat.DIALOGUES]
    (folder / "chat.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows), encoding="utf-8")
    (folder / "good.jsonl").write_text("".join(json.dumps(one) + "\n" for one in rows[:2]), encoding="utf-8")


def run(page: Path, *, shell: bool = True) -> None:
    """Run the blocks of a page in the working folder; a name that one block binds is known to the next."""
    names: dict[str, Any] = {}
    for kind, text in blocks(page):
        if kind == "python":
            exec(compile(text, str(page), "exec"), names)  # the code of our own pages
            continue
        assert kind == "sh", f"{page.name} has a block of {kind or 'no kind'}: it would not run"
        for line in filter(None, text.replace("\\\n", " ").splitlines()):
            program, *words = shlex.split(line)
            assert program == "proponent", line
            if not shell:
                continue
            with pytest.raises(SystemExit) as leaving:
                main(words)
            assert leaving.value.code == 0, line


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_the_code_of_a_page_runs(page: Path, trained: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    if page.stem in {"chat", "clean-chat-data"}:
        chat_model(tmp_path)
        if page.stem != "chat":
            run(ROOT / "docs" / "start" / "chat.md", shell=False)
    else:
        trained(tmp_path)
        encoder(tmp_path)
        if page.stem == "classifier":
            shutil.rmtree(tmp_path / "runs")
            shutil.rmtree(tmp_path / "news.index")
    run(page)


def test_a_corrected_file_of_the_page_has_the_suggested_label(
    trained: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trained(tmp_path)
    encoder(tmp_path)
    first = label_errors(Store(tmp_path / "news.index")).rows[0]
    run(ROOT / "docs" / "how-to" / "label-errors.md")
    corrected = (tmp_path / "corrected.csv").read_text(encoding="utf-8")
    assert f"{first.id},{first.text},{first.predicted_label}" in corrected
