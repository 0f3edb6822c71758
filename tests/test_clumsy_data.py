"""Data as people really have it: read rightly, or refused in a line that names the file, the cause and the way out."""

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from pyarrow import parquet

import proponent
from proponent.data import read
from proponent.errors import DataError, InputError
from proponent.training.class_names import described, label_names

PLAIN = "text,label\na cat,x\nthe dog,y\n"
GBK = "text,label\n银行股价下跌了,Business\n".encode("gbk")


def held(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def stored(path: Path, columns: Any, features: object = None) -> Path:
    table = pyarrow.table(columns)
    if features is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, path)
    return path


JSON_ROWS = '{"text": "a", "label": "x"}\n{"text": "b", "label": "y"}\n'

REFUSED = [
    # separators and quotes
    ("a.csv", "text;label\na, b, c;x\nd;y\n", "a semicolon: read the file with --separator semicolon"),
    ("a.csv", "text|label\na cat|x\n", r"no column 'text'.*a pipe: read the file with --separator pipe"),
    ("a.csv", "text\tlabel\na, b\tx\n", r"a tab: read the file with --separator tab"),
    ("a.csv", '"text";"label"\n"a, b";"x"\n', r"line 1 .*separator right\? .* is a semicolon: .*--separator semicolon"),
    ("a.csv", '"text"\t"label"\n"a"\t"x"\n', r"line 1 .*is the separator right\? .* a tab: .*--separator tab"),
    ("a.tsv", '"text","label"\n"a","x"\n', r"line 1 .*is the separator right\? .* a comma: .*--separator comma"),
    ("a.csv", 'text;label\n"a";"x"\n', r"line 2 .*the only name contains a semicolon: .*--separator semicolon"),
    ("a.csv", "text:label\na cat:x\n", "a colon: read the file with --separator colon"),
    ("a.csv", "a note: here\nb\n", "if its first line is a row"),
    ("a.csv", '"te"xt","label"\n"a","x"\n', "wrong quotes on line 1 .*double every quote"),
    ("a.tsv", 'text\tlabel\n"one\tpos\ntwo\tneg\nend"\tpos\nlast\tneg\n', r"lines 2 to 4\).*--quotes none .*double"),
    ("a.csv", 'text,label\n"Hello" he said,x\n', "wrong quotes on line 2 .*--quotes none"),
    ("a.csv", 'text,label\n"Hello he said,x\nb,y\n', "starts on line 2 opens a quote .*--quotes none"),
    ("a.csv", "text,label\n'a, b',x\n", r'put double quotes \("\) around'),
    ("a.csv", "id,text,label\n1,a,x\n2,b\n", "give every row a field for each column"),
    ("a.csv", "# by me\ntext,label\na,x\n", "line 1 looks like a comment: remove it"),
    ("a.csv", "a cat,x\nthe dog,y\n", "if its first line is a row, name the columns with --header"),
    # other kinds of files
    ("a.csv", b"PK\x03\x04" + bytes(range(128, 200)), "a zip archive .*: unpack it, or export the sheet as CSV"),
    ("a.csv", b"PAR1" + bytes(20), r"a Parquet file: give it a name that ends in .parquet"),
    ("a.jsonl", b"ARROW1\0\0", r"an Arrow file: give it a name that ends in .arrow"),
    ("a.json", b"%PDF-1.7 ...", "a PDF: export"),
    ("a.csv", b"SQLite format 3\0" + bytes(80), "an SQLite database: export the table as CSV"),
    ("a.csv", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(9), r"an old workbook \(.xls\): export the sheet as CSV"),
    ("a.csv", b"\x80\x04\x95abc", "a pickle, which proponent never opens: save the data as Parquet or JSON"),
    ("a.csv", b"BZh91AY", "compressed with bzip2: unpack it"),
    ("a.csv", "<!DOCTYPE html><html>404</html>", "a web page: download the data file itself"),
    ("a.csv", "version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "a pointer of Git LFS.*git lfs pull"),
    ("a.parquet", "version https://git-lfs.github.com/spec/v1\noid sha256:a\n", "no Parquet file, but a pointer"),
    ("a.parquet", PLAIN, r"it looks like text; give it the ending of what it holds, such as .csv"),
    ("a.arrow", PLAIN, r"not a readable Arrow file .*it looks like text"),
    ("a.csv.gz", PLAIN, r"not compressed with gzip, although its name ends in .gz: rename it to a.csv"),
    ("a.csv.gz", gzip.compress(gzip.compress(PLAIN.encode())), "compressed with gzip twice: unpack it once"),
    ("a.xlsx", b"PK\x03\x04", "unknown file type '.xlsx': export the sheet as CSV"),
    ("a.zip", b"PK\x03\x04", "unknown file type '.zip': unpack it"),
    ("a.txt", "a cat\n", "unknown file type '.txt': give it the ending of what it holds"),
    # JSON
    ("a.csv", JSON_ROWS, r"the first line looks like JSON: rename the file to .jsonl"),
    ("a.jsonl", PLAIN, r"line 1 is not valid JSON .*a CSV file with a header line is .csv"),
    ("a.jsonl", '[{"text": "a"}]', r"line 1 contains a list.*a file that is one list is .json"),
    ("a.jsonl", '{\n"text": "a"\n}', "each line is one object; a file that is one list is .json"),
    ("a.json", JSON_ROWS, "for one object per line, use .jsonl"),
    ("a.json", '{"text": ["a"], "label": ["x"]}', r"look like columns: write rows, as pandas does with to_json"),
    ("a.json", '{"data": [{"text": "a"}]}', "it has a list 'data': write that list alone"),
    ("a.jsonl", '{"row": {"text": "a", "label": "x"}}', "column 'row' holds objects with 'text'"),
    # cells
    ("a.jsonl", '{"text": 7, "label": "x"}', "must contain text.*if it is the text, write the column as text"),
    ("a.jsonl", '{"text": "a", "label": 1}\n{"text": "b", "label": "one"}', "mixes numbers and names"),
    ("a.jsonl", '{"text": "a", "label": Infinity}', "a label must be a class or a finite number"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), REFUSED, ids=[f"{at}-{one[0]}" for at, one in enumerate(REFUSED)])
def test_refused_in_one_line(tmp_path: Path, name: str, content: str | bytes, said: str) -> None:
    path = held(tmp_path / name, content)
    with pytest.raises(DataError, match=said) as refusal:
        read(path)
    assert "\n" not in str(refusal.value)
    assert name in str(refusal.value)


def test_an_encoding_is_not_guessed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="its encoding is unknown") as refusal:
        read(held(tmp_path / "a.csv", GBK))
    said = str(refusal.value)
    assert "'银行股价下跌了,Busi' as gb18030" in said
    assert "as windows-1252" in said
    assert "`iconv -f ENCODING -t utf-8 a.csv > utf8-a.csv`" in said
    with pytest.raises(DataError, match="'é au lait,x' as windows-1252"):
        read(held(tmp_path / "a.csv", "text,label\ncafé au lait,x\n".encode("latin-1")))
    with pytest.raises(DataError, match="'銀行の株価,x' as shift_jis"):
        read(held(tmp_path / "a.csv", "text,label\n銀行の株価,x\n".encode("shift_jis")))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("my data; rm x.csv", "utf-8 'my data; rm x.csv' > 'utf8-my data; rm x.csv'`"),
        ("-o.csv", "utf-8 ./-o.csv > utf8--o.csv`"),
    ],
)
def test_a_command_that_is_advised_quotes_the_name(tmp_path: Path, name: str, said: str) -> None:
    for content in (GBK, PLAIN.encode("utf-16")):
        with pytest.raises(DataError) as refusal:
            read(held(tmp_path / name, content))
        assert said in str(refusal.value)


READ = [
    ("a.csv", PLAIN, {}, ["a cat", "the dog"]),
    ("a.csv", "\ufeff\ufeff" + PLAIN, {}, ["a cat", "the dog"]),  # the mark twice
    ("a.csv", "text;label\na, b;x\nc;y\n", {"separator": "semicolon"}, ["a, b", "c"]),
    ("a.csv", "text|label\na, b|x\nc|y\n", {"separator": "|"}, ["a, b", "c"]),
    ("a.csv", "sep=;\r\ntext;label\r\na, b;x\r\nc;y\r\n", {}, ["a, b", "c"]),
    ("a.csv", "sep=,\ntext,label\na,x\nc,y\n", {}, ["a", "c"]),
    ("a.tsv", 'text\tlabel\n"start\tpos\nend"\tneg\n', {"quotes": "none"}, ['"start', 'end"']),
    ("a.tsv", 'text\tlabel\n"start\tpos\nend"\tneg\nb\tpos\n', {"quotes": "double"}, ["start\tpos\nend", "b"]),
    ("a.csv", 'text,label\n5" wide,x\nthe "dog",y\n', {}, ['5" wide', 'the "dog"']),
    ("a.csv", 'id,text,label\n1,"Dear Sir,\nyes, we\nthanks",x\n2,b,y\n', {}, ["Dear Sir,\nyes, we\nthanks", "b"]),
    ("a.csv", "a cat,x\nthe dog,y\n", {"header": ("text", "label")}, ["a cat", "the dog"]),
    ("a.csv", "text,label\ra cat,x\rthe dog,y\r", {}, ["a cat", "the dog"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "how", "texts"), READ, ids=range(len(READ)))
def test_read_as_meant(tmp_path: Path, name: str, content: str, how: Any, texts: list[str]) -> None:
    examples = read(held(tmp_path / name, content), **how)
    assert examples.texts == texts
    assert not [line for line in examples.warnings if "quoted field" in line]


def test_a_csv_file_with_lone_quotes_warns(tmp_path: Path) -> None:
    content = 'text,label\n"start of it,pos\na second,neg\nthe end",pos\nfourth,neg\n'
    examples = read(held(tmp_path / "a.csv", content))
    assert "its lines look like rows (lines 2 to 4)" in " ".join(examples.warnings)
    assert len(read(held(tmp_path / "a.csv", content), quotes="none")) == 4


LONE = [
    # lines between the two quotes that are blank, or hold other numbers of separators
    ("a.tsv", 'text\tlabel\n"bad film\tneg\n\ngreat film"\tpos\nok\tneg\nfine\tpos\n', "lines 2 to 4"),
    ("a.tsv", 'text\tlabel\n"bad film\tneg\na\tb\tc\ngreat film"\tpos\nok\tneg\n', "lines 2 to 4"),
    ("a.tsv", 'id\ttext\n1\t"bad film\n2\tgreat film"\n3\tok\n', "lines 2 to 3"),
    ("a.csv", 'text,label\n"bad film,neg\ngreat, truly great film",pos\nok,neg\n', "lines 2 to 3"),
    ("a.csv", 'text,label\n"bad film,neg\n\nso, so,neg\ngreat film",pos\nok,neg\n', "lines 2 to 5"),
    ("a.csv", 'id,text,label\n1,"bad, bad film,neg\n2,great, great film",pos\n3,ok,neg\n', "lines 2 to 3"),
    ("a.csv", 'id,text\n1,"bad film\n\n2,great, great film"\n3,ok\n', "lines 2 to 4"),
]


@pytest.mark.parametrize(("name", "content", "where"), LONE, ids=range(len(LONE)))
def test_rows_between_lone_quotes_are_not_lost_without_a_word(
    tmp_path: Path, name: str, content: str, where: str
) -> None:
    path = held(tmp_path / name, content)
    if name.endswith(".tsv"):
        with pytest.raises(DataError, match=rf"look like rows \({where}\): .*--quotes none .*--quotes double"):
            read(path)
    else:
        assert f"look like rows ({where}): if quotes mean nothing" in " ".join(read(path).warnings)
    read(path, quotes="double")


MEANT = [
    ("a.tsv", 'text\tlabel\n"one\n\ntwo, three"\tx\nb\ty\n'),
    ("a.csv", 'text,label\n"one\n\ntwo",x\nb,y\n'),
    ("a.csv", 'text,label\n"one\nsold 1,000 of them, and more,\nthree",x\nb,y\n'),
    ("a.csv", 'text,label\n"sold 1,000 of them\nand\nthree, or four",x\nb,y\n'),
    ("a.csv", 'label,text\nx,"Dear Sir,\n\nyes, we, too,\nthanks, all"\ny,b\n'),
    ("a.csv", 'text,note,label\n"a,b,c","one\ntwo","d,e"\nb,c,y\n'),
]


@pytest.mark.parametrize(("name", "content"), MEANT, ids=range(len(MEANT)))
def test_texts_of_several_lines_are_no_lone_quotes(tmp_path: Path, name: str, content: str) -> None:
    examples = read(held(tmp_path / name, content))
    assert len(examples) == 2
    assert not [line for line in examples.warnings if "quoted field" in line]


def test_options_of_separated_files(tmp_path: Path) -> None:
    path = held(tmp_path / "a.jsonl", JSON_ROWS)
    for how in ({"separator": ";"}, {"quotes": "none"}, {"header": ("a",)}):
        with pytest.raises(DataError, match=f"--{next(iter(how))} is for CSV and TSV files: leave it out"):
            read(path, **how)  # type: ignore[arg-type]
        with pytest.raises(DataError, match="is for CSV and TSV files"):
            read([{"text": "a"}], **how)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"--separator '::' .*: give one character"):
        read(path, separator="::")
    with pytest.raises(InputError, match=r"--quotes 'single' .*: choose one of auto, double, none"):
        read(path, quotes="single")


def test_apply_reads_a_file_as_it_was_read(tmp_path: Path, bert_run: Path) -> None:
    """The index keeps how a file is written, so that its corrections can be applied to it."""
    from proponent.actions.corrections import originals

    rows = "".join(f'n{at};"the bank, {at};Business\n' for at in range(3))
    data = held(tmp_path / "a.csv", f"id;text;label\n{rows}")
    examples = read(data, separator=";", quotes="none")
    index = proponent.build(bert_run, examples, tmp_path / "index", "tracin-we", quiet=True)
    assert index.store.manifest.sources[0].columns["separator"] == ";"
    (again,), problem = originals(index.store, [])
    assert (again.texts, problem) == (examples.texts, "")


# labels


@pytest.mark.parametrize("other", ["sports", "Sports ", " Sports", "Sports\u00a0", "Sports\u200b", "SPORTS", "Ｓports"])
def test_labels_that_look_alike_are_named(other: str) -> None:
    rows = [{"text": "a", "label": "Sports"}, {"text": "b", "label": other}, {"text": "c", "label": "World"}]
    assert "which differ only in case, blanks or spelling of characters" in " ".join(read(rows).warnings)


def test_names_for_no_label_are_named() -> None:
    rows = [{"text": "a", "label": "x"}, {"text": "b", "label": "NaN"}]
    assert "holds 'NaN', which is read as the name of a class: leave the cell empty" in " ".join(read(rows).warnings)
    assert not [line for line in read([{"text": "a", "label": "x"}]).warnings if "class" in line]


@pytest.mark.parametrize(
    "name", ["labels", "Label", "LABEL", " label", "label_", "class", "Category", "gold_label", "sentiment", "tag"]
)
def test_a_column_near_label_is_no_reason_for_a_language_model(name: str) -> None:
    examples = read([{"text": "a", name: "x"}, {"text": "b", name: "y"}])
    assert f"column {name!r} is not read: if it holds that, name it with --label-column" in " ".join(examples.warnings)
    with pytest.raises(DataError, match=f"has no column 'label', but {name!r}: .*--label-column ''"):
        label_names(examples)
    columns = proponent.Columns(label="")
    meant = read([{"text": "a", name: "x"}, {"text": "b", name: "y"}], columns=columns)
    assert label_names(meant) is None
    assert not [line for line in meant.warnings if "label" in line]
    assert described(meant).endswith(f"has no labels; columns that are not read: {name!r}")


def test_what_is_trained_is_said() -> None:
    examples = read([{"text": "a", "label": "x"}, {"text": "b", "label": "y"}])
    assert described(examples) == "training a classifier of 2 classes: x, y"
    assert described(read([{"text": "a"}])) == "training a language model on the texts: list of 1 dicts has no labels"


def test_other_columns_that_look_like_a_role() -> None:
    said = " ".join(read([{"text": "a", "text2": "c", "ID": 7, "label": "x"}]).warnings)
    assert "no column is named 'text_pair', and column 'text2' is not read" in said
    assert "no column is named 'id', and column 'ID' is not read" in said
    columns = proponent.Columns(text="sentence1")
    said = " ".join(read([{"sentence1": "a", "sentence2": "b"}], columns=columns).warnings)
    assert "column 'sentence2' is not read: if it holds that, name it with --pair-column 'sentence2'" in said
    plain = read([{"text": "a", "text_pair": "b", "label": "x", "id": 1, "note": "n"}])
    assert plain.warnings == ()


@pytest.mark.parametrize("number", [float, str], ids=["numbers", "texts"])
def test_values_are_no_classes(number: Any) -> None:
    rows = [
        {"text": "a", "label": number(0.0)},
        {"text": "b", "label": number(0.37)},
        {"text": "c", "label": number(1)},
    ]
    with pytest.raises(DataError, match=r"are numbers such as 0.37, which are values and not classes"):
        label_names(read(rows))


@pytest.mark.parametrize("labels", [["0,5", "1,5", "2"], [0.5, "7.5"], ["0.5", "7.5", "n/a"], ["0,5", "1", "NaN"]])
def test_values_are_no_classes_with_a_comma_or_beside_missing_ones(labels: list[Any]) -> None:
    rows = [{"text": "a", "label": str(label)} for label in labels]
    with pytest.raises(DataError, match=r"are numbers such as 0.5.*, which are values and not classes") as refusal:
        label_names(read(rows))
    assert ("beside" in str(refusal.value)) == (str(labels[-1]).casefold() in {"n/a", "nan"})


@pytest.mark.parametrize("labels", [["1", "2", "n/a"], ["0,5", "grade 2"], ["1,2,3", "2"], ["2.0", "NaN"]])
def test_names_with_numbers_are_classes(labels: list[str]) -> None:
    assert set(label_names(read([{"text": "a", "label": one} for one in labels])) or ()) == set(labels)


@pytest.mark.parametrize("values", [["0", "1"], ["good", "bad"], ["1", "2", "3", "4", "5"]])
def test_targets_that_are_classes_are_no_reason_for_a_language_model(tmp_path: Path, values: list[str]) -> None:
    lines = "".join(f"text {at},{values[at % len(values)]}\n" for at in range(12))
    path = held(tmp_path / "a.csv", f"text,target\n{lines}")
    with pytest.raises(DataError, match=r"few values .* 'target': .*--label-column 'target' --target-column ''.*model"):
        label_names(read(path))
    assert label_names(read(path, columns=proponent.Columns(label="target", target=""))) == tuple(sorted(values))
    assert label_names(read(path, columns=proponent.Columns(label=""))) is None


@pytest.mark.parametrize(
    "targets", [["yes", "no"], ["a"] * 9, ["a long answer, in a whole sentence", "b"] * 9, ["a", None] * 9]
)
def test_other_targets_are_completions(targets: list[str | None]) -> None:
    rows = [{"text": f"t{at}"} | ({} if one is None else {"target": one}) for at, one in enumerate(targets)]
    assert label_names(read(rows)) is None


def test_numbers_are_sorted_and_known_by_value() -> None:
    from proponent.labels import Labels

    rows = [{"text": "a", "label": label} for label in ("10.0", "2.0", "0.0", "1.0")]
    names = label_names(read(rows)) or ()
    assert names == ("0.0", "1.0", "2.0", "10.0")
    assert [Labels(names).number(one) for one in (2, "2", "2.0", "10", 0)] == [2, 2, 2, 3, 0]
    with pytest.raises(InputError, match="unknown label 3"):
        Labels(names).number(3)
    assert Labels(("a", "b")).number("1") == 1


# class names behind numbers

CLASS = {"names": ["World", "Sports", "Business"], "_type": "ClassLabel"}
NUMBERS = {"text": ["a", "b"], "label": [2, 0]}


@pytest.mark.parametrize(
    "features",
    [
        {"label": CLASS},
        {"label": CLASS, "tokens": [{"dtype": "string", "_type": "Value"}]},
        {"label": CLASS, "other": None, "more": "text", "list": []},
        {"label": {"names": {"1": "Sports", "0": "World", "2": "Business"}, "_type": "ClassLabel"}},
    ],
    ids=["plain", "a list in the older form", "odd columns", "names by number"],
)
def test_class_labels_of_a_file(tmp_path: Path, features: object) -> None:
    examples = read(stored(tmp_path / "a.parquet", NUMBERS, features))
    assert examples.labels == ["Business", "World"]
    assert examples.label_names == ("World", "Sports", "Business")


@pytest.mark.parametrize(
    "feature",
    [[CLASS], {"feature": CLASS, "_type": "Sequence"}, {"feature": CLASS, "length": -1, "_type": "List"}],
    ids=["older", "sequence", "list"],
)
def test_class_labels_in_lists(tmp_path: Path, feature: object) -> None:
    columns = {"tokens": [["a", "b"], ["c"]], "tags": [[2, 0], [-100]]}
    examples = read(stored(tmp_path / "a.parquet", columns, {"tags": feature}))
    assert examples.labels == ['["Business", "World"]', "[null]"]
    wrong = stored(tmp_path / "b.parquet", {"tokens": [["a"]], "tags": [[7]]}, {"tags": feature})
    with pytest.raises(DataError, match="label 7, which is not one of the 3 names"):
        read(wrong)


@pytest.mark.parametrize("names", [["World", "World", "Biz"], {"0": "World", "1": "World", "2": "Biz"}])
def test_two_classes_of_one_name_are_refused(tmp_path: Path, names: Any) -> None:
    path = stored(tmp_path / "a.parquet", NUMBERS, {"label": {"names": names, "_type": "ClassLabel"}})
    with pytest.raises(DataError, match="'label' gives the classes 0 and 1 one name, 'World': give each class a name"):
        read(path)
    assert read(path, columns=proponent.Columns(label="")).labels == [None, None]


def test_class_labels_of_a_dataset_in_memory() -> None:
    datasets = pytest.importorskip("datasets")
    tags = datasets.Sequence(datasets.ClassLabel(names=["O", "PER"]))
    features = datasets.Features({"tokens": datasets.Sequence(datasets.Value("string")), "tags": tags})
    made = datasets.Dataset.from_dict({"tokens": [["a", "b"]], "tags": [[1, 0]]}, features=features)
    assert read(made).labels == ['["PER", "O"]']
