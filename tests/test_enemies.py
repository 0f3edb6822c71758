"""Files that somebody else made: typed errors in plain lines, bounded memory and time, nothing outside touched."""

import gzip
import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

import enemies
import faults
import hostile_watch
from enemies import CONTROLS, bait_beside, model_folder, opened
from proponent.data import read
from proponent.errors import DamagedError, DataError, InputError, ProponentError, RunError
from proponent.foreign_files import MOST_VALUES, Door, parse_json
from proponent.models import Run
from proponent.models.counting import Stated
from proponent.models.run_files import StoredName
from proponent.store import Manifest, Store, delete, merge, verify
from proponent.store.checksums import sums_of
from proponent.store.files import publish_tensors
from proponent.store.leases import Leases
from proponent.store.manifest import canonical
from proponent.store.mapped import MappedTensors
from proponent.tensors import read_tensors, write_tensors
from runs import edit
from test_store_fuzz import Replaced

DOOR = Door(InputError, "restore it")
MORE = 3 * 2**29
needs_pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")


# ---- the door ----


@needs_pipes
def test_only_regular_files_of_a_size_in_their_folder_are_opened(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "secret").write_text("secret")
    (home / "link").symlink_to(tmp_path / "secret")
    (home / "large").write_bytes(b"12345")
    (home / "inside").symlink_to("large")
    os.mkfifo(home / "pipe")
    for name, why in (
        ("pipe", "is a pipe, not a regular file: restore it"),
        (".", "is a folder, not a regular file"),
        ("link", "is a link out of its folder"),
        ("large", "has 5 bytes, and at most 4 are read"),
    ):
        for use in (DOOR.read_bytes, DOOR.check):
            with pytest.raises(InputError, match=why):
                use(home / name, most=4, within=home)
    assert DOOR.read_bytes(home / "inside", most=5, within=home) == b"12345"
    with pytest.raises(InputError, match="is a link"):
        Door(InputError, "restore it", links=False).read_bytes(home / "inside", most=5)
    with pytest.raises(FileNotFoundError):
        DOOR.read_bytes(home / "gone", most=5)
    with pytest.raises(InputError, match="device"):
        DOOR.read_bytes(Path("/dev/zero"), most=5)


def test_the_cache_of_a_hub_keeps_its_files_in_links(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (tmp_path / "models--a--b" / "blobs").mkdir()
    (tmp_path / "models--a--b" / "blobs" / "123").write_text("{}")
    (snapshot / "config.json").symlink_to("../../blobs/123")
    assert DOOR.read_text(snapshot / "config.json", most=9, within=snapshot) == "{}"
    (tmp_path / "models--a--b" / "secret").write_text("secret")
    (snapshot / "config.json").unlink()
    (snapshot / "config.json").symlink_to("../../secret")
    with pytest.raises(InputError, match="is a link out of its folder"):
        DOOR.read_text(snapshot / "config.json", most=9, within=snapshot)


@pytest.mark.parametrize("text", ["1e999", "-1e999", "Infinity", "NaN", str(2**63), "1" * 5000, "[" * 100_000, "\xff"])
def test_json_of_ours_has_plausible_numbers_and_a_depth(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 # of several kinds
        parse_json(text.encode("latin-1"), plausible=True)
    assert parse_json(b'[1, -5, 1.5, "1e999"]', plausible=True) == [1, -5, 1.5, "1e999"]


def test_json_of_few_bytes_and_many_values_is_refused() -> None:
    with pytest.raises(ValueError, match="more than"):
        parse_json(b"[" + b"0," * MOST_VALUES + b"0]")


# ---- a second of fuzz for each parser ----


@pytest.mark.parametrize("name", enemies.TARGETS)
def test_a_second_of_spoilt_files(name: str, tmp_path: Path) -> None:
    found = enemies.fuzz(name, tmp_path / "in", float(os.environ.get("PROPONENT_FUZZ_SECONDS", "1")), seed=0)
    assert found.failures == []
    assert found.inputs > 0
    assert found.slowest < 20


def test_what_a_reader_must_not_do_is_noticed(tmp_path: Path) -> None:
    """The control of every test with `watched`."""
    home = tmp_path / "home"
    home.mkdir()
    write_tensors(tmp_path / "bait.safetensors", {"a": np.zeros(1)})
    bait = bait_beside(home)
    write_tensors(bait.folder / "x.safetensors", {"a": np.zeros(1)})
    (bait.folder / "y.py").write_text("1")

    def connects() -> None:
        with socket.socket() as one:
            one.settimeout(0.01)
            one.connect_ex(("127.0.0.1", 9))

    for act in (
        lambda: (bait.folder / "config.json").read_text(),
        lambda: exec(compile("1", str(bait.folder / "y.py"), "exec")),
        lambda: subprocess.run(["true"], check=False),
        lambda: (tmp_path / "new").mkdir(),
        connects,
    ):
        with hostile_watch.watched(home, bait=bait) as noticed:
            act()
            assert noticed() != []
    if bait.watches:
        with hostile_watch.watched(home, bait=bait) as noticed:
            read_tensors(bait.folder / "x.safetensors")  # Rust opens it
            assert any("touched the bait 'x.safetensors'" in one for one in noticed())
    with hostile_watch.watched(home, bait=bait) as noticed:
        (home / "own").write_text("1")
        assert noticed() == []
    bait.close()


# ---- an index ----


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "index"
    for job in ({"do": "build"}, {"do": "append"}, {"do": "delete"}):
        faults.change(folder, job)
    return folder


@pytest.fixture
def index(tmp_path: Path, whole: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "index"))


EVERY = [
    "plan.json",
    "manifest.json",
    "examples/seg-00000.parquet",
    "examples/seg-00000.safetensors",
    "forms/step-3/seg-00000-shard-00000.safetensors",
    "postings/step-3/seg-00000.safetensors",
    "tables/step-3.safetensors",
    "tombstones/gen-00003.safetensors",
]


def ask_everything(folder: Path) -> list[str]:
    """Every error of an index that is asked everything, verified and changed."""
    found = [str(one) for one in faults.answers(folder, allow_missing=True).values() if isinstance(one, Exception)]
    for act in (lambda: verify(folder), lambda: delete(folder, np.asarray([0])), lambda: merge(folder, rows=1000)):
        try:
            act()
        except ProponentError as error:
            found.append(str(error))
    return found


@needs_pipes
@pytest.mark.parametrize("name", EVERY)
def test_a_pipe_in_place_of_any_file_hangs_nothing(index: Path, name: str) -> None:
    (index / name).unlink()
    os.mkfifo(index / name)
    found = ask_everything(index)
    assert found
    assert not verify_is_clean(index)


def verify_is_clean(folder: Path) -> bool:
    try:
        return not verify(folder).damage
    except ProponentError:
        return False


@pytest.mark.parametrize("name", [*EVERY, "lease", "tombstones", "plans", "forms", "forms/step-3", "examples"])
def test_a_link_out_of_an_index_is_never_followed(index: Path, tmp_path: Path, name: str) -> None:
    outside = tmp_path / "outside"
    if (index / name).exists():
        (index / name).rename(outside)
    elif name == "plans":
        outside.mkdir()
    before = state_of(outside)
    (index / name).symlink_to(outside)
    found = ask_everything(index)
    assert any("link" in one or "no index" in one or "not a regular file" in one for one in found), found
    assert state_of(outside) == before


def state_of(path: Path) -> Any:
    if path.is_dir():
        return {one.name: state_of(one) for one in path.iterdir()}
    return path.read_bytes() if path.exists() else None


def test_a_lease_that_is_a_link_creates_nothing(index: Path, tmp_path: Path) -> None:
    (index / "lease").unlink(missing_ok=True)
    (index / "lease").symlink_to(tmp_path / "made")
    with pytest.raises(DamagedError, match="lease is not a regular file"):
        Leases(index)
    assert not (tmp_path / "made").exists()


def test_an_unfinished_index_behind_links_is_not_built_on(tmp_path: Path) -> None:
    folder, outside = tmp_path / "index", tmp_path / "outside"
    faults.change(folder, {"do": "build"})
    (folder / "manifest.json").unlink()
    (folder / "postings").rename(outside)
    (folder / "postings").symlink_to(outside)
    before = state_of(outside)
    with pytest.raises(DamagedError, match="postings is a link, and an index contains no links"):
        faults.change(folder, {"do": "build"})
    assert state_of(outside) == before


@pytest.mark.parametrize("name", ["plan.json", "manifest.json"])
def test_a_plan_of_gigabytes_is_not_read(index: Path, name: str) -> None:
    os.truncate(index / name, 3 * 2**30)
    with pytest.raises(DamagedError, match=r"has 3,221,225,472 bytes, and at most 134,217,728 are read"):
        Store(index)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda _: {"segments": [{"name": f"{at:05d}", "n": 0, "shards": [0]} for at in range(100_000)]},
            r"segments\.0\.n",
        ),
        (lambda held: {"segments": held["segments"] + held["segments"][:1]}, "the segment 00000 is there twice"),
        (lambda _: {"deleted": "../secret.safetensors"}, "deleted: String should match"),
        (lambda _: {"peak_rss": 10**30}, "is not a number that proponent writes"),
        (lambda _: {"generation": "1"}, "generation: Input should be a valid integer"),
        (lambda held: {"files": [held["files"]]}, "files: Input should be"),
        (lambda _: {"seconds": {"a": {}}}, r"seconds\.a"),
    ],
)
def test_odd_values_of_a_manifest_are_named(index: Path, change: Callable[[Any], Any], why: str) -> None:
    held = json.loads((index / "manifest.json").read_text())
    (index / "manifest.json").write_text(json.dumps(held | change(held)))
    with pytest.raises(DamagedError, match=why):
        Store(index)


def test_a_step_twice_in_a_plan_is_refused(index: Path) -> None:
    plan = json.loads((index / "plan.json").read_text())
    plan["terms"][0]["checkpoints"] *= 2
    with (
        Replaced(index, "plan.json", json.dumps(plan).encode()),
        pytest.raises(DamagedError, match="step 3 is there twice"),
    ):
        Store(index)


def test_a_token_beyond_any_vocabulary_asks_for_no_memory(index: Path) -> None:
    for name in sorted(path.relative_to(index).as_posix() for path in (index / "forms").rglob("*.safetensors")):
        arrays = MappedTensors(index / name).all()
        if not len(arrays["rows.ids"]):
            continue
        arrays["rows.ids"][-1] = 2**31 - 1
        publish_tensors(index.parent / "a.safetensors", arrays)
        data = (index.parent / "a.safetensors").read_bytes()
        with Replaced(index, name, data), pytest.raises(DamagedError, match="a token is beyond any vocabulary"):
            merge(index, rows=1000)
        return
    raise AssertionError("no shard with rows")


def limited(code: str, *words: object) -> str:
    """Run code in a process that may have 1.5 GB more than its libraries; returns its last line."""
    head = (
        "import resource, sys\nsys.path.insert(0, sys.argv[1])\nfrom pathlib import Path\n"
        "import numpy, pyarrow.parquet\nfrom proponent.data import StoredExamples, read\n"
        "from proponent.errors import ProponentError\nfrom proponent.store import Store, verify\n"
        "held = int(Path('/proc/self/statm').read_bytes().split()[0]) * resource.getpagesize()\n"
        f"resource.setrlimit(resource.RLIMIT_AS, (held + {MORE}, held + {MORE}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", head + code, str(Path(__file__).parent), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"MALLOC_ARENA_MAX": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


ASKED = """
try:
    found = read(sys.argv[2])
    print("read", sum(len(one.text) for one in found))
except ProponentError as error:
    print(type(error).__name__, error)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
def test_a_dictionary_of_one_long_text_is_not_unfolded(tmp_path: Path) -> None:
    enemies.BOMBS["one-long-text.parquet"](tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 200_000
    assert "unfolds to more than" in limited(ASKED, tmp_path / "a.parquet")


def test_the_corpus_is_made_by_a_script(tmp_path: Path) -> None:
    enemies.write_corpus(tmp_path / "corpus", each=1)
    made = {path.relative_to(tmp_path / "corpus").parts[0] for path in (tmp_path / "corpus").rglob("*")}
    assert {*(name.replace(" ", "-") for name in enemies.TARGETS), "bombs", "bait"} <= made


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
def test_the_examples_of_an_index_are_not_unfolded(tmp_path: Path) -> None:
    folder = tmp_path / "index"
    faults.change(folder, {"do": "build"})
    name = "examples/seg-00000.parquet"
    table = parquet.read_table(folder / name)
    rows = table.num_rows
    text = pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, dtype=np.int32)), pa.array(["x" * (48 * 2**20)]))
    changed = table.set_column(table.schema.get_field_index("text"), "text", text)
    parquet.write_table(
        changed, tmp_path / "a.parquet", dictionary_pagesize_limit=2**30, store_schema=False, compression="zstd"
    )
    data = (tmp_path / "a.parquet").read_bytes()
    manifest = Manifest.model_validate_json((folder / "manifest.json").read_bytes())
    files = manifest.files | {name: sums_of([data])}
    (folder / name).write_bytes(data)
    (folder / "manifest.json").write_text(
        canonical(manifest.model_copy(update={"files": files}).sealed().model_dump()) + "\n"
    )
    code = """
try:
    store = Store(Path(sys.argv[2]))
    print("read", len(store.examples["text"]))
except ProponentError as error:
    print(type(error).__name__, error)
"""
    assert limited(code, folder).startswith("DamagedError")
    assert "unfolds" in limited(code, folder)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and RLIMIT_AS")
@pytest.mark.parametrize("kind", [name for name in enemies.BOMBS if name != "one-long-text.parquet"])
def test_other_files_that_unfold_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    enemies.BOMBS[kind](path)
    said = limited(ASKED, path)
    assert said.startswith("DataError"), said


def test_a_compressed_file_of_ordinary_texts_is_read(tmp_path: Path) -> None:
    """The control: equal texts, which compress well, are read."""
    rows = [{"id": str(at), "text": "the same text again", "label": "a"} for at in range(20_000)]
    with gzip.open(tmp_path / "a.csv.gz", "wt") as file:
        file.write("id,text,label\n" + "".join(f"{one['id']},{one['text']},a\n" for one in rows))
    table = pa.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "a.parquet", compression="zstd")
    with pa.ipc.new_file(
        str(tmp_path / "a.arrow"), table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")
    ) as writer:
        writer.write_table(table)
    assert {len(read(tmp_path / name)) for name in ("a.csv.gz", "a.parquet", "a.arrow")} == {20_000}
    assert read(tmp_path / "a.parquet").fingerprint == read(tmp_path / "a.arrow").fingerprint


@pytest.mark.parametrize("kind", ["plain", "dictionary", "Arrow"])
def test_a_file_of_many_rows_that_repeat_a_few_long_texts_is_read(tmp_path: Path, kind: str) -> None:
    """The control of those that unfold: 300 MB of texts from a file of 1 MB, 2 KB a row."""
    rows = 150_000
    texts = pa.array(["".join(map(str, range(at, at + 600))) for at in range(20)])
    pairs = pa.DictionaryArray.from_arrays(pa.array(np.arange(rows, dtype=np.int32) % 20), texts)
    table = pa.table({"text": [f"row {at}" for at in range(rows)], "text_pair": pairs})
    if kind == "Arrow":
        with pa.ipc.new_file(str(tmp_path / "a.parquet"), table.schema) as writer:
            writer.write_table(table)
        path = (tmp_path / "a.parquet").rename(tmp_path / "a.arrow")
    else:
        path = tmp_path / "a.parquet"
        parquet.write_table(table, path, store_schema=kind == "dictionary", compression="zstd")
        assert path.stat().st_size < 1_200_000
    examples = read(path)
    assert len(examples) == rows
    assert examples[rows - 1].text_pair == texts[(rows - 1) % 20].as_py()


def test_what_unfolds_names_the_column_and_the_way_out(tmp_path: Path) -> None:
    enemies.BOMBS["repeated.arrow"](tmp_path / "a.arrow")
    way = r"column 'text' unfolds to more than 268,435,456 bytes, from .* if it is yours, write it as \.csv or \.jsonl"
    with pytest.raises(DataError, match=way):
        read(tmp_path / "a.arrow")


@needs_pipes
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.json", "a.parquet", "a.arrow"])
def test_a_pipe_named_like_a_data_file_hangs_nothing(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match="is a pipe, not a regular file"):
        read(tmp_path / name)


@needs_pipes
def test_a_pipe_as_a_chat_template_is_refused_with_its_own_way_out(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "chat.jinja")
    with pytest.raises(InputError, match="is a pipe, not a regular file: give a file that holds one chat template"):
        Stated.of(None, None, tmp_path / "chat.jinja")


def test_types_that_repeat_values_are_refused(tmp_path: Path) -> None:
    repeated = pa.RunEndEncodedArray.from_arrays(pa.array([2**20], pa.int32()), pa.array(["x"]))
    for column in (repeated, pa.array([["x"]], pa.list_view(pa.string()))):
        table = pa.table({"text": column})
        with pa.ipc.new_stream(str(tmp_path / "a.arrow"), table.schema) as writer:
            writer.write_table(table)
        with pytest.raises(DataError, match="write it as plain text or lists"):
            read(tmp_path / "a.arrow")


@pytest.mark.parametrize("name", ["../x.arrow", "/etc/passwd", "", 7, None])
def test_a_saved_data_set_names_only_its_own_files(tmp_path: Path, name: Any) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_dict({"text": ["a", "b"]})
    made.save_to_disk(str(tmp_path / "saved"))
    assert len(read(tmp_path / "saved")) == 2
    (tmp_path / "saved" / "data-00000-of-00001.arrow").rename(tmp_path / "x.arrow")
    edit(tmp_path / "saved" / "state.json", _data_files=[{"filename": name}])
    with pytest.raises(DataError, match="only files of the same folder are read"):
        read(tmp_path / "saved")


def test_a_saved_data_set_of_splits_names_only_its_own_folders(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": ["a"]}).save_to_disk(str(tmp_path / "elsewhere"))
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})}).save_to_disk(str(tmp_path / "saved"))
    assert len(read(tmp_path / "saved")) == 1
    (tmp_path / "saved" / "dataset_dict.json").write_text('{"splits": ["../elsewhere"]}')
    with pytest.raises(DataError, match="only files of the same folder are read"):
        read(tmp_path / "saved")


# ---- verify ----


def replaced_examples(index: Path, change: Callable[[pa.Table], pa.Table]) -> Replaced:
    name = "examples/seg-00000.parquet"
    parquet.write_table(change(parquet.read_table(index / name)), index.parent / "a.parquet", store_schema=False)
    return Replaced(index, name, (index.parent / "a.parquet").read_bytes())


def with_column(table: pa.Table, name: str, values: Any) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, values)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda table: table.drop_columns(["id"]), "0 columns id"),
        (lambda table: table.drop_columns(["text"]), "0 columns text"),
        (lambda table: with_column(table, "id", pa.array(range(table.num_rows))), "column id is of int64"),
        (lambda table: with_column(table, "text", pa.nulls(table.num_rows)), "column text is of null"),
        (lambda table: with_column(table, "place", pa.array(["0"] * table.num_rows)), "column place is of string"),
        (lambda table: with_column(table, "id", pa.array(["same"] * table.num_rows)), "an id that another example has"),
        (
            lambda table: with_column(table, "id", pa.array([None, *map(str, range(1, table.num_rows))])),
            "without an id",
        ),
    ],
)
def test_verify_looks_at_the_columns(index: Path, change: Callable[[Any], Any], why: str) -> None:
    with replaced_examples(index, change):
        damage = verify(index).damage[0]
        assert damage.file == "examples/seg-00000.parquet"
        assert why in damage.problem


def test_verify_finds_an_id_of_another_segment(index: Path) -> None:
    taken = parquet.read_table(index / "examples" / "seg-00001.parquet")["id"][0].as_py()
    with replaced_examples(
        index, lambda table: with_column(table, "id", pa.array([taken, *table["id"].to_pylist()[1:]]))
    ):
        damage = verify(index).damage[0]
        assert "an id that another example has" in damage.problem


def test_verify_refuses_an_index_without_plan_or_manifest(
    index: Path, said: Callable[..., Any], tmp_path: Path
) -> None:
    for name in ("manifest.json", "plan.json"):
        (index / name).rename(tmp_path / name)
        code, _, err = said("verify", index)
        assert code == 4
        assert f"{name} is missing" in err
    assert said("verify", tmp_path / "nothing")[0] == 2


# ---- a run ----


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "home")


@pytest.mark.parametrize(
    "name",
    ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "README.md", "proponent_run.json"],
)
def test_a_link_out_of_a_run_is_not_followed(model: Path, tmp_path: Path, name: str) -> None:
    (model / name).rename(tmp_path / name)
    (model / name).symlink_to(tmp_path / name)
    with pytest.raises(RunError, match="is a link out of its folder"):
        opened(model)
    (model / name).unlink()
    (tmp_path / name).rename(model / f"copy of {name}")
    (model / name).symlink_to(f"copy of {name}")
    opened(model)


def test_a_checkpoint_that_is_a_link_out_of_its_run_is_refused(model: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint-8").symlink_to(model)
    with pytest.raises(RunError, match="checkpoint-8 is a link out of its run"):
        Run.from_pretrained(tmp_path / "run")
    (tmp_path / "link").symlink_to(model)
    opened(tmp_path / "link")  # a link that the user names is followed


def test_large_settings_are_not_read(model: Path) -> None:
    (model / "proponent_recorder.json").unlink()  # it would answer before the state is read
    os.truncate(model / "trainer_state.json", 3 * 2**30)
    with pytest.raises(RunError, match=r"trainer_state\.json has 3,221,225,472 bytes"):
        Run.from_pretrained(model)


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation", "_attn_implementation_internal"])
@pytest.mark.parametrize("value", ["somebody/kernel", {"": "somebody/kernel"}, "paged|somebody/kernel@main:f"])
def test_attention_code_of_a_hub_is_refused_wherever_it_stands(model: Path, name: str, value: Any) -> None:
    for changes in ({name: value}, {"text_config": {name: value}}):
        before = (model / "config.json").read_text()
        edit(model / "config.json", **changes)
        with pytest.raises(RunError, match=r"uses attention code from a hub \(.*somebody/kernel"):
            Run.from_pretrained(model)
        (model / "config.json").write_text(before)


@pytest.mark.parametrize(
    ("name", "value"), [("tokenizer_file", "{}"), ("vocab_file", "{}"), ("fast_tokenizer_files", ["{}"])]
)
def test_a_tokenizer_names_only_its_own_files(model: Path, tmp_path: Path, name: str, value: Any) -> None:
    (tmp_path / "tokenizer.1.json").write_text("{}")
    there = os.path.relpath(tmp_path / "tokenizer.1.json", model)
    edit(model / "tokenizer_config.json", **{name: json.loads(json.dumps(value).replace("{}", there))})
    with pytest.raises(RunError, match=f"as {name}: only files of the same folder"):
        Run.from_pretrained(model)
    edit(
        model / "tokenizer_config.json",
        **{name: json.loads(json.dumps(value).replace("{}", "/home/gone/tokenizer.json"))},
    )
    Run.from_pretrained(model)  # a stale path of an earlier version


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("config.json", {"pad_token_id": "0"}),
        ("config.json", {"pad_token_id": 10**30}),
        ("config.json", {"hidden_size": -5}),
        ("config.json", {"to_dict": 5}),
        ("config.json", {"max_position_embeddings": [1]}),
        ("config.json", {"id2label": [1]}),
        ("config.json", {"architectures": "BertForSequenceClassification"}),
        ("trainer_state.json", {"global_step": 10**30}),
        ("trainer_state.json", {"log_history": {"a": 1}}),
        ("trainer_state.json", {"best_model_checkpoint": {}}),
        ("proponent_recorder.json", {"learning_rate": 10**400}),
        ("proponent_recorder.json", {"learning_rate": "fast"}),
        ("proponent_recorder.json", {"step": -5}),
        ("proponent_run.json", {"sft": [1]}),
        ("proponent_run.json", {"label_smoothing_factor": {"a": 1}}),
        ("tokenizer_config.json", {"model_max_length": "512"}),
        ("tokenizer_config.json", {"model_max_length": -5}),
        ("tokenizer_config.json", {"added_tokens_decoder": 5}),
    ],
)
def test_odd_values_of_a_run_end_in_typed_errors(model: Path, file: str, changes: dict[str, Any]) -> None:
    edit(model / file, **changes)
    said = ""
    try:
        opened(model)
    except ProponentError as error:
        said = str(error)
    assert not said or str(model) in said


def test_names_that_stand_in_files_are_not_fetched(model: Path, tmp_path: Path) -> None:
    """Without the variable that the tests set, a name of a user is asked for, and one of a file is not."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import socket
import time
time.sleep = lambda _: None
asked = []
def refused(*words, **more):
    asked.append(words)
    raise OSError("no network in this test")
socket.getaddrinfo = socket.create_connection = refused
from pathlib import Path
from proponent.errors import ProponentError
from proponent.models import Run
from proponent.models.run_files import StoredName
for how in ({"tokenizer": StoredName("somebody/x")}, {}, {"tokenizer": "somebody/x"}):
    try:
        Run.from_pretrained(Path(sys.argv[2 if how else 3]), **how)
    except ProponentError as error:
        print(len(asked), str(error)[:300])
"""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    write_tensors(
        adapter / "adapter_model.safetensors", {"base_model.model.a.lora_A.weight": np.zeros((1, 1), np.float32)}
    )
    settings = {"peft_type": "LORA", "task_type": "SEQ_CLS", "base_model_name_or_path": "somebody/x", "r": 1}
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    online = {
        name: value for name, value in os.environ.items() if name not in {"HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"}
    }
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent), str(model), str(adapter)],
        env=online,
        capture_output=True,
        text=True,
        check=False,
    )
    stored, base, named = done.stdout.splitlines()[-3:]
    assert stored.startswith("0 "), done.stdout + done.stderr[-2000:]
    assert base.startswith("0 ")
    assert "--base" in base
    assert not named.startswith("0 ")


def test_an_index_gives_the_names_in_its_plan_as_stored_ones(monkeypatch: pytest.MonkeyPatch, index: Path) -> None:
    from proponent.index.loading import LoadedRun

    plan = json.loads((index / "plan.json").read_text()) | {"tokenizer": "somebody/x", "base": "somebody/y"}
    given: list[dict[str, Any]] = []

    def opened_run(path: Path, **how: Any) -> Any:
        given.append(how)
        raise RunError("stop")

    monkeypatch.setattr(Run, "from_pretrained", opened_run)
    with Replaced(index, "plan.json", json.dumps(plan).encode()):
        for base in (None, "own/base"):
            with pytest.raises(RunError, match="stop"):
                _ = LoadedRun(Store(index), str(index), False, base, lambda _: None).run
    first, second = given
    assert isinstance(first["tokenizer"], StoredName)
    assert isinstance(first["base"], StoredName)
    assert not isinstance(second["base"], StoredName)


# ---- plain text ----


def test_names_and_labels_never_steer_a_terminal(tmp_path: Path, said: Callable[..., Any], index: Path) -> None:
    evil = CONTROLS.replace("\x9b", "").replace("\u202e", "")
    folder = tmp_path / f"run{evil}"
    folder.mkdir()
    plan = json.loads((index / "plan.json").read_text()) | {
        "run": str(folder),
        "label_names": ["a", "b", f"c{CONTROLS}"],
    }
    (folder / f"x{evil}.csv").write_text("")
    with Replaced(index, "plan.json", json.dumps(plan).encode()):
        results = [
            said("explain", index, "the cup", "--label", f"no{CONTROLS}"),
            said("check", folder, folder / f"x{evil}.csv"),
            said("verify", folder),
            said("info", index, "--json"),
            said("explain", folder, "the cup"),
            said("index", folder, tmp_path / f"y{evil}.csv", "--out", folder),
        ]
    for code, out, err in results:
        steering = [
            one
            for one in out + err
            if (ord(one) < 32 and one not in "\n\t") or 127 <= ord(one) < 160 or one == "\u202e"
        ]
        assert steering == [], (code, out, err)


def test_the_message_of_an_error_is_one_plain_line() -> None:
    error = InputError(f"a  label{CONTROLS} of\nthree\r\n  lines")
    assert str(error).startswith("a  label⟨U+001B⟩]52;c;cHduZWQ=⟨U+0007⟩")
    assert len(str(error).splitlines()) == 1
    assert "⟨U+202E⟩" in str(error)
