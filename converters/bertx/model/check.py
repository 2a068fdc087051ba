"""A program that loads a checkpoint strictly and says nothing: exit 0, or one line and the refusal's exit code.

    python -m bertx.model.check FOLDER TASK

So that an exporter which needs no PyTorch itself (safetensors) refuses what the others refuse.
"""

from __future__ import annotations

import sys
from pathlib import Path

from bertx.checkpoint import open_folder
from bertx.ending import leave
from bertx.errors import BertxError
from bertx.model.loading import load
from bertx.model.tasks import task_named


def main() -> int:
    folder, task = sys.argv[1:]
    try:
        load(open_folder(Path(folder)), task_named(task))
    except BertxError as error:
        sys.stderr.write(f"{error.code}: {error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    leave(main())
