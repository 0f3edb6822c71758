"""Every kind of input, read into one shape; the only door of pyarrow.

`read` takes a path, a hub id, a `datasets` object, a DataFrame, an Arrow table or a list, and gives `Examples`: checked
rows with stable ids and a fingerprint of their content. The tables that whence itself writes go through here too.
"""

from whence.examples.arrow import read_parquet, write_parquet
from whence.examples.collection import Columns, Examples
from whence.examples.sources import read
from whence.examples.spreadsheet import write_csv
from whence.examples.stored import Stored, parquet_bytes
from whence.examples.whole import Found, How, Whole, spans
from whence.examples.wordsets import WordSets

__all__ = [
    "Columns",
    "Examples",
    "Found",
    "How",
    "Stored",
    "Whole",
    "WordSets",
    "parquet_bytes",
    "read",
    "read_parquet",
    "spans",
    "write_csv",
    "write_parquet",
]
