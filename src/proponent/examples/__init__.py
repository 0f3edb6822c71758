"""Every kind of input, read into one shape; the only door of pyarrow.

`read` takes a path, a hub id, a `datasets` object, a DataFrame, an Arrow table or a list, and gives `Examples`: checked
rows with stable ids and a fingerprint of their content. The tables that proponent itself writes go through here too.
"""

from proponent.examples.arrow import write_parquet
from proponent.examples.collection import Columns, Examples
from proponent.examples.rewriting import Part, write_columns, write_parts
from proponent.examples.sources import read, read_local
from proponent.examples.spreadsheet import write_csv
from proponent.examples.stored import Stored, parquet_bytes
from proponent.examples.whole import Found, How, Whole, spans
from proponent.examples.wordsets import WordSets

__all__ = [
    "Columns",
    "Examples",
    "Found",
    "How",
    "Part",
    "Stored",
    "Whole",
    "WordSets",
    "parquet_bytes",
    "read",
    "read_local",
    "spans",
    "write_columns",
    "write_csv",
    "write_parquet",
    "write_parts",
]
