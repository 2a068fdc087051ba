"""Runs another runner with a tokenizer of our own: python retold_runner.py TOKENIZER PROGRAM… ARGUMENTS."""

from __future__ import annotations

import subprocess
import sys


def main() -> int:
    tokenizer, *command = sys.argv[1:]
    if "--tokenizer" in command:
        command[command.index("--tokenizer") + 1] = tokenizer
    return subprocess.run(command).returncode


if __name__ == "__main__":
    sys.exit(main())
