"""pyarrow, which ships no types."""

# pyright: reportMissingTypeStubs=false
from typing import Any

import pyarrow
import pyarrow.compute
import pyarrow.ipc
import pyarrow.parquet

pa: Any = pyarrow
compute: Any = pyarrow.compute
ipc: Any = pyarrow.ipc
parquet: Any = pyarrow.parquet
