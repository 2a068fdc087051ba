"""placeholder"""
from __future__ import annotations
from dataclasses import dataclass
from pathlib import Path
@dataclass(frozen=True)
class HubOptions:
    offline: bool = False
    progress: bool = False
def cached(repo: str, commit: str, options: HubOptions) -> Path | None: return None
def snapshot(repo: str, revision: str | None, options: HubOptions): raise NotImplementedError
