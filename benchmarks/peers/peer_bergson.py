"""bergson: whether it installs and imports without a GPU, and its methods for a classifier."""

import argparse
import importlib.metadata
import json
from pathlib import Path

from bergson.gradients import LayerAdapter


def main() -> None:
    """Write what is found; there is nothing to time."""
    parser = argparse.ArgumentParser()
    for name in ("--work", "--variant", "--out", "--repeats", "--seconds"):
        parser.add_argument(name)
    options = parser.parse_args()
    record = {
        "versions": {"bergson": importlib.metadata.version("bergson")},
        "rounds": [],
        "layers": [one.__name__ for one in LayerAdapter.supported_modules],
        "notes": [
            "installs and imports (without torchvision and torchaudio, which would bring another torch); it loads "
            "causal language models only and takes no gradients of embeddings: nothing to compare on this work"
        ],
    }
    Path(options.out).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
