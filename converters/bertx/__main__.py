"""python -m bertx"""

from __future__ import annotations

from bertx.cli import main

if __name__ == "__main__":
    main()
