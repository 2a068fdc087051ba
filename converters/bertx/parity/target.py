"""What is to be verified: the artifacts of a bundle, of any folder, or one file."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import bertx.bundle as bundle
import bertx.manifest as manifests
from bertx import exchange
from bertx.checkpoint.weights import INDEX
from bertx.errors import InputRefused, SourceUnavailable, UsageError, escape
from bertx.formats import Format, format_of
from bertx.manifest import ArtifactEntry, Manifest
from bertx.onnx_header import read_onnx_header
from bertx.parity.budget import Budget
from bertx.parity.judge import Subject
from bertx.parity.origin import Origin

#: where artifacts lie in a folder that has no manifest
_PLACES = ("*.safetensors", "*.safetensors.index.json", "*.onnx", "*.pt", "onnx/*.onnx", "torchscript/*.pt")
#: one file of several that an index makes an artifact of
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")


#: dtypes of quantized weights
_FEW_BITS = ("int8", "uint8", "int4", "uint4", "int2", "uint2", "float4_e2m1", "float8_e4m3fn", "float8_e5m2")


@dataclass(frozen=True)
class Target:
    """Files to verify, by path relative to `folder`; `home` is the bundle they belong to, where there is one."""

    folder: Path
    files: tuple[str, ...]
    home: Path | None
    manifest: Manifest | None
    alone: bool

    def entry(self, name: str) -> ArtifactEntry | None:
        """The manifest's entry for one of the files."""
        if self.home is None or self.manifest is None:
            return None
        relative = (self.folder / name).relative_to(self.home).as_posix()
        return next((entry for entry in self.manifest.artifacts if entry.path == relative), None)


def find(target: str) -> Target:
    """The artifacts that TARGET names. Raises UsageError or InputRefused where there are none."""
    path = exchange.named(target)
    if path.is_file():
        if format_of(path) is None:
            raise UsageError(
                "E_USAGE",
                f"{escape(path.name)} is no artifact",
                "name a .onnx, .pt or .safetensors file or a bundle",
            )
        path = path.resolve()
        home = next((folder for folder in path.parents[:2] if bundle.is_bundle(folder)), None)
        return Target(path.parent, (path.name,), home, manifests.read(home) if home else None, True)
    if not path.is_dir():
        raise UsageError("E_USAGE", f"{escape(target)} does not exist", "name a bundle or an artifact file")
    path = path.resolve()
    manifest = manifests.read(path) if bundle.is_bundle(path) else None
    listed = [entry.path for entry in manifest.artifacts] if manifest else []
    lost = [name for name in listed if not (path / name).is_file()]
    if lost:
        raise InputRefused("E_BUNDLE", f"{escape(lost[0])} is in bertx.json and not in the folder", "export it again")
    present = [p.relative_to(path).as_posix() for place in _PLACES for p in sorted(path.glob(place)) if p.is_file()]
    sharded = any(name.endswith(INDEX) for name in present)
    files = tuple(name for name in dict.fromkeys([*listed, *present]) if not (sharded and _SHARD.search(name)))
    if not files:
        raise InputRefused(
            "E_BUNDLE",
            f"{escape(target)} holds no artifact",
            "name a folder with .onnx, .pt or .safetensors files",
        )
    return Target(path, files, path if manifest else None, manifest, False)


def changed(target: Target) -> list[str]:
    """Files to verify whose bytes are not those that the manifest lists."""
    if target.home is None or target.manifest is None:
        return []
    different = set(bundle.verify_files(target.home, target.manifest))
    paths = {name: (target.folder / name).relative_to(target.home).as_posix() for name in target.files}
    return [name for name, path in paths.items() if different & target.manifest.parts(path)]


def require_reference(target: Target) -> Path:
    """The bundle whose checkpoint is the reference. Raises SourceUnavailable where only --against can tell."""
    if target.home is None:
        raise SourceUnavailable(
            "E_REFERENCE",
            "there is no bertx.json to say which checkpoint this is",
            "add --against CHECKPOINT",
        )
    return target.home


def stated_task(target: Target) -> str | None:
    """The task that the manifest or, failing it, the files themselves state; None where they state none."""
    if target.manifest is not None:
        return target.manifest.task
    stated = {_format(name).contents(target.folder / name).task for name in target.files} - {None}
    return stated.pop() if len(stated) == 1 else None


def subjects(target: Target, origin: Origin, dtype: str | None, budget: Budget | None = None) -> tuple[Subject, ...]:
    """Every file as the judge wants it: what it claims to be, which outputs it must give, what it may differ by.

    A budget is for the file that the user named, or those of a folder that hold quantized weights: it must not
    excuse the others. Raises UsageError where there are none.
    """
    found = tuple(_subject(target, name, origin, dtype) for name in target.files)
    if budget is None:
        return found
    allowed = tuple(replace(each, budget=budget) if target.alone or quantized(each) else each for each in found)
    if not any(each.budget for each in allowed):
        raise UsageError("E_USAGE", "--budget is for quantized files, and none is here", "name the file itself")
    return allowed


def quantized(subject: Subject) -> bool:
    """Whether a file holds weights of few bits. Only ONNX says so in its header; for others the user names the file."""
    if subject.format != "onnx":
        return False
    weights = read_onnx_header(subject.path).weights
    return any(len(each.shape) > 1 and each.dtype in _FEW_BITS for each in weights)


def _format(name: str) -> Format:
    found = format_of(Path(name))
    if found is None:
        raise UsageError(
            "E_USAGE", f"{escape(name)} is no artifact", "name a .onnx, .pt or .safetensors file or a bundle"
        )
    return found


def _subject(target: Target, name: str, origin: Origin, dtype: str | None) -> Subject:
    kind = _format(name)
    path = target.folder / name
    entry = target.entry(name)
    contents = kind.contents(path)
    claimed = dtype or (entry.dtype if entry else None) or contents.dtype or "float32"
    stated = entry.signature if entry else None
    # The file's own inputs are fed, whatever a manifest says of them; a manifest's outputs must all be there.
    signature = contents.signature or stated
    if stated is not None:
        outputs = tuple(spec.name for spec in stated.outputs)
    elif kind.name == "safetensors":
        outputs = origin.outputs
    elif kind.name == "torchscript" and signature is not None:
        outputs = tuple(spec.name for spec in signature.outputs)
    else:
        outputs = ()  # of somebody else's file, those that the reference has are judged
    return Subject(path, name, kind.name, claimed, signature, outputs, target.home or _home(path))


def _home(path: Path) -> Path | None:
    """The folder whose configuration goes with a file: its own, or the one around onnx/ and torchscript/."""
    near = [path.parent, path.parent.parent] if path.parent.name in ("onnx", "torchscript") else [path.parent]
    return next((folder for folder in near if (folder / "config.json").is_file()), None)
