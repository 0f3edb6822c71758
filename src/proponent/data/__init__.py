"""Read every kind of input into one shape; only this package uses pyarrow.

`read` takes a path, a hub id, a `datasets` object, a DataFrame, an Arrow table or a list, and returns `Examples`:
validated rows with stable ids and a content fingerprint. Tables that proponent writes use this package too.
"""

from proponent.data.arrow import write_parquet
from proponent.data.columns import Column, named, numbers
from proponent.data.conversations import Layout, from_json, native, to_json
from proponent.data.examples import Columns, Examples
from proponent.data.near_columns import near_column
from proponent.data.number_columns import NumberColumns, read_numbers
from proponent.data.rewriting import Part, write_columns, write_parts
from proponent.data.sources import read, read_local
from proponent.data.spreadsheet import write_csv
from proponent.data.stored import StoredExamples, parquet_bytes
from proponent.data.whole import ExampleColumns, How, SearchResult, WordSets, spans, spans_in_time

__all__ = [
    "Column",
    "Columns",
    "ExampleColumns",
    "Examples",
    "How",
    "Layout",
    "NumberColumns",
    "Part",
    "SearchResult",
    "StoredExamples",
    "WordSets",
    "from_json",
    "named",
    "native",
    "near_column",
    "numbers",
    "parquet_bytes",
    "read",
    "read_local",
    "read_numbers",
    "spans",
    "spans_in_time",
    "to_json",
    "write_columns",
    "write_csv",
    "write_parquet",
    "write_parts",
]
