"""Malformed and malicious torch.save files, by what is wrong with them; each must be refused and none may run anything.

A payload, where it ran, would write the file PWNED in the current folder.
"""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch_files import (
    numbers,
    raw_entry,
    raw_zip,
    reference,
    state_dict,
    tensor,
    text,
    torch_legacy,
    torch_zip,
    zipped,
)

Make = Callable[[Path], object]
COMMAND = "echo ran > PWNED"
N = b"N"


class Payload:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.system, (COMMAND,)


class Executed:
    def __reduce__(self) -> Any:
        return exec, ("open('PWNED', 'w')",)


class Opened:
    def __reduce__(self) -> Any:
        return open, ("PWNED", "w")


class Built:
    """Whose state is set by a method of its own."""

    def __init__(self) -> None:
        self.state = 1

    def __setstate__(self, state: object) -> None:
        Path("PWNED").touch()


def inside(pickled: bytes) -> Make:
    return lambda path: torch_zip(path, pickled)


def valued(value: bytes) -> Make:
    """A state dict with one such value behind a sound tensor."""
    return inside(state_dict(sound=tensor(), x=value))


def damaged(at: int, with_: bytes) -> Make:
    """A sound zip file with some of its bytes replaced."""

    def make(path: Path) -> None:
        content = bytearray(torch_zip(path, state_dict(x=tensor())).read_bytes())
        at_ = at if at >= 0 else len(content) + at
        content[at_ : at_ + len(with_)] = with_
        path.write_bytes(content)

    return make


def cut(bytes_: int, legacy: bool = False) -> Make:
    def make(path: Path) -> None:
        if legacy:
            torch_legacy(path, state_dict(x=tensor(reference(more=N))))
        else:
            torch_zip(path, state_dict(x=tensor()))
        path.write_bytes(path.read_bytes()[:bytes_])

    return make


def directory(changes: dict[str, int], **end: int) -> Make:
    """A raw archive whose directory says something false of its one entry, or of itself."""
    return lambda path: raw_zip(path, [raw_entry(b"archive/data.pkl", b"\x80\x02}.", 0, **changes)], **end)


def twice(path: Path) -> None:
    first = raw_entry(b"archive/data.pkl", b"\x80\x02}.", 0)
    raw_zip(path, [first, raw_entry(b"archive/data.pkl", b"\x80\x02}.", len(first[0]))])


def overlapping(path: Path) -> None:
    first, second = (raw_entry(name, b"\x80\x02}." * 9, 0) for name in (b"archive/data.pkl", b"archive/data/0"))
    raw_zip(path, [first, second])


def quoted(path: Path) -> None:
    """An entry inside the bytes of another one, as zip bombs that need no compression nest them."""
    inner = raw_entry(b"archive/data/0", b"x" * 24, 30 + len("archive/data.pkl"))
    raw_zip(path, [raw_entry(b"archive/data.pkl", inner[0], 0), (b"", inner[1])])


def other_header(path: Path) -> None:
    local, _ = raw_entry(b"archive/data.pkX", b"\x80\x02}.", 0)
    raw_zip(path, [(local, raw_entry(b"archive/data.pkl", b"\x80\x02}.", 0)[1])])


def bomb(path: Path) -> None:
    zipped(path, {"archive/data.pkl": state_dict(x=tensor()), "archive/data/0": bytes(200_000_000)}, 8)


def nested(path: Path) -> None:
    inner = torch_zip(path.with_name("inner"), state_dict(x=tensor())).read_bytes()
    zipped(path, {"archive.zip": inner})


def torchscript(path: Path) -> None:
    torch_zip(path, state_dict(x=tensor()), None, **{"code/__torch__.py": b"import os"})


def outside(path: Path) -> None:
    elsewhere = path.parent.parent / "outside.bin"
    torch_zip(elsewhere, state_dict(x=tensor()))
    path.symlink_to(elsewhere)


def pipe(path: Path) -> None:
    os.mkfifo(path)


def sparse_file(path: Path) -> None:
    """A terabyte of nothing that begins as an archive."""
    with path.open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(2**40)


def huge_legacy(path: Path) -> None:
    torch_legacy(path, state_dict(x=tensor(reference(count=2**54, more=N), shape=(2**54,), strides=(1,))), tail=b"")


def tar(path: Path) -> None:
    path.write_bytes(b"storages".ljust(257, b"\0") + b"ustar\0" + bytes(400))


def many_views(path: Path) -> None:
    """40,000 names for all of one storage."""
    data = bytes(2**20)
    one = tensor(reference(count=2**18), shape=(2**18,), strides=(1,))
    torch_zip(path, state_dict(**{f"t{k}": one for k in range(4_000)}), {"0": data})


ONE = tensor()
EXT = b"\x82\x01"
ROOT = "archive/data.pkl"

CASES: dict[str, Make] = {
    # code
    **{f"os.system, protocol {p}": inside(pickle.dumps({"x": Payload()}, p)) for p in range(6)},
    **{f"exec, protocol {p}": inside(pickle.dumps({"x": Executed()}, p)) for p in range(6)},
    "open": inside(pickle.dumps(Opened(), 2)),
    "__setstate__": inside(pickle.dumps({"x": Built()}, 2)),
    "INST": inside(b"(S'" + COMMAND.encode() + b"'\nios\nsystem\n."),
    "OBJ": inside(b"(cos\nsystem\nX\x01\0\0\0xo."),
    "NEWOBJ": valued(b"ctorch\nFloatStorage\n)\x81"),
    "NEWOBJ_EX": valued(b"ctorch\nFloatStorage\n)}\x92"),
    "EXT1": valued(EXT),
    "EXT2": valued(b"\x83\1\0"),
    "EXT4": valued(b"\x84\1\0\0\0"),
    "STACK_GLOBAL": valued(b"\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R"),
    "STACK_GLOBAL of no text": valued(b"K\1K\2\x93"),
    "STACK_GLOBAL of a computed name": valued(text("torch") + ONE + b"\x93"),
    "PERSID": valued(b"Pstorage\n"),
    "a storage class that is code": valued(tensor(reference(kind="os\nsystem"))),
    "REDUCE of a tensor": valued(ONE + b")R"),
    "REDUCE of text": valued(text("os.system") + b")R"),
    "REDUCE of an allowed name with a call inside": valued(
        b"ctorch\nSize\n(cposix\nsystem\n" + text("ls") + b"\x85RtR"
    ),
    "BUILD on a name": valued(b"ctorch._utils\n_rebuild_tensor_v2\n}b"),
    "BUILD on a tensor": valued(ONE + b"}b"),
    "SETITEM on a name": valued(b"ctorch\nFloatStorage\nK\1K\2s"),
    "APPEND on a dictionary": valued(b"}K\1a"),
    "a dotted name": valued(b"ctorch\nserialization.os.system\n" + text("ls") + b"\x85R"),
    "an attribute of an allowed module": valued(b"ctorch._utils\n_import_dotted_name\n" + text("os.system") + b"\x85R"),
    "getattr": valued(b"cbuiltins\ngetattr\n(ctorch\nFloatStorage\n" + text("__init__") + b"tR"),
    "runpy": valued(b"crunpy\n_run_code\n)R"),
    "numpy": valued(b"cnumpy.core.multiarray\n_reconstruct\n)R"),
    "pathlib": inside(pickle.dumps({"x": Path("/etc/passwd")}, 2)),
    "code behind the pickle's end": inside(state_dict(x=ONE) + pickle.dumps(Payload(), 2)),
    "code in the list of storages": lambda path: torch_legacy(path, state_dict(x=tensor(reference(more=N))), Payload()),
    "code in the system's description": lambda path: torch_legacy(path, state_dict(), (), b"", extra=Payload()),
    "code in the legacy state dict": lambda path: torch_legacy(path, pickle.dumps({"x": Payload()}, 2), (), b""),
    "a bare pickle": lambda path: path.write_bytes(pickle.dumps(Payload(), 2)),
    # pickles that are too much
    "two million lists": inside(b"\x80\x02" + b"]" * 3_000_000 + b"."),
    "lists in lists": inside(b"\x80\x02" + b"]" * 900_000 + b"a" * 899_999 + b"."),
    "tuples in tuples as a key": inside(b"\x80\x02})" + b"\x85" * 900_000 + b"K\1s."),
    "a memo without end": inside(b"\x80\x02}" + b"\x94" * 3_000_000 + b"."),
    "text of 4 GB": inside(b"\x80\x02X\xff\xff\xff\xff."),
    "text of 2^63 bytes": inside(b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f."),
    "a number of 2^31 bytes": inside(b"\x80\x02\x8b\xff\xff\xff\x7f."),
    "a number of 100,000 digits": inside(b"I" + b"9" * 100_000 + b"\n."),
    "a pickle of 20 MB": inside(b"\x80\x02B" + struct.pack("<I", 20_000_000) + bytes(20_000_000) + b"."),
    "a pickle that never stops": inside(b"\x80\x02}"),
    "an empty stack": inside(b"\x80\x020."),
    "a mark as a value": inside(b"\x80\x02(."),
    "values behind": inside(b"\x80\x02}}."),
    "a memo that is empty": inside(b"\x80\x02h\x05."),
    "protocol 9": inside(b"\x80\x09}."),
    "text that is no UTF-8": inside(b"\x80\x02}X\x01\0\0\0\xffK\1s."),
    "a surrogate as a name": inside(b"\x80\x02}X\x03\0\0\0\xed\xa0\x80" + ONE + b"s."),
    "a name twice": inside(b"\x80\x02}(" + (text("x") + ONE) * 2 + b"u."),
    # tensors that are none
    "a wrapper": inside(b"\x80\x02}" + text("state_dict") + b"}(" + text("x") + ONE + b"us."),
    "a number": valued(b"K\1"),
    "a list at the top": inside(b"\x80\x02]" + ONE + b"a."),
    "a tensor at the top": inside(b"\x80\x02" + ONE + b"."),
    "a number as a name": inside(b"\x80\x02}K\1" + ONE + b"s."),
    "a quantised tensor": valued(b"ctorch._utils\n_rebuild_qtensor\n)R"),
    "a sparse tensor": valued(b"ctorch._utils\n_rebuild_sparse_tensor\n)R"),
    "a quantised storage": valued(tensor(reference(kind="torch\nQInt8Storage"))),
    "a negated view": valued(tensor(rest=b"\x89}}" + text("neg") + b"\x88s")),
    "too few arguments": valued(b"ctorch._utils\n_rebuild_tensor_v2\n)R"),
    # tensors outside of their storage
    "an offset behind the storage": valued(tensor(offset=1)),
    "an offset of 2^60": valued(tensor(offset=2**60)),
    "a negative offset": valued(tensor(offset=-1)),
    "a shape that is too large": valued(tensor(shape=(2, 4), strides=(4, 1))),
    "a negative size": valued(tensor(shape=(-2, -3))),
    "strides that lead outside": valued(tensor(strides=(6, 1))),
    "a negative stride": valued(tensor(strides=(-3, 1))),
    "more sizes than strides": valued(tensor(strides=(1,))),
    "truth as a size": valued(tensor().replace(numbers(2, 3), b"(\x88\x88t")),
    "a terabyte from one number": valued(tensor(shape=(2**40,), strides=(0,))),
    "4,000 names for one megabyte": many_views,
    "a storage that is larger than its bytes": valued(tensor(reference(count=7))),
    "a storage that is smaller than its bytes": valued(tensor(reference(count=5), shape=(1,), strides=(1,))),
    "a storage of 2^60 elements": valued(tensor(reference(count=2**60))),
    "a storage that is not there": valued(tensor(reference("7"))),
    "a storage outside of the archive": valued(tensor(reference("../../../etc/passwd"))),
    "one storage of two types": valued(tensor(reference(kind="torch\nIntStorage"))),
    # archives
    "a bomb": bomb,
    "a compressed pickle": lambda path: zipped(path, {ROOT: state_dict(x=ONE)}, zipfile.ZIP_DEFLATED),
    "an archive in an archive": nested,
    "a TorchScript file": torchscript,
    "an archive without a pickle": lambda path: zipped(path, {"archive/data/0": b"x"}),
    "two pickles": lambda path: zipped(path, {ROOT: b"\x80\x02}.", "other/data.pkl": b"\x80\x02}."}),
    "big-endian": lambda path: zipped(path, {ROOT: state_dict(), "archive/byteorder": b"big"}),
    "an entry twice": twice,
    "entries that overlap": overlapping,
    "an entry inside an entry": quoted,
    "a header that disagrees": other_header,
    "an encrypted entry": directory({"flags": 1}),
    "a wrong checksum": directory({"crc": 1}),
    "an offset outside": directory({"offset": 2**31}),
    "a size outside": directory({"size": 2**31, "packed": 2**31}),
    "a packed size of its own": directory({"packed": 1}),
    "more entries than listed": directory({}, count=60_000),
    "a directory elsewhere": directory({}, begin=3),
    "a directory of 4 GB": directory({}, length=2**32 - 2),
    "a split archive": directory({}, disk=1),
    "bytes after the archive": directory({}, comment=7),
    "a zip64 directory that is missing": directory({}, length=2**32 - 1),
    "a damaged header": damaged(0, b"PK\3\4\0\0\xff\xff"),
    "a damaged pickle": damaged(60, b"\xff"),
    "a cut archive": cut(300),
    "a cut first header": cut(20),
    "nothing": cut(0),
    # other containers
    "a cut legacy file": cut(-7, legacy=True),
    "a legacy file with more": lambda path: torch_legacy(path, state_dict(x=tensor(reference(more=N))), tail=bytes(99)),
    "a legacy storage of 2^54 elements": huge_legacy,
    "legacy storages that nothing needs": lambda path: torch_legacy(path, state_dict(), ("0",)),
    "a legacy file of big-endian": lambda path: torch_legacy(path, state_dict(), (), b"", little_endian=False),
    "a legacy storage of another size": lambda path: torch_legacy(
        path, state_dict(x=tensor(reference(more=N))), tail=struct.pack("<q", 5) + bytes(24)
    ),
    "a tar archive": tar,
    "a Git LFS pointer": lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
    "HTML": lambda path: path.write_bytes(b"<!doctype html><title>404</title>"),
    "a terabyte of nothing": sparse_file,
    "a link out of the folder": outside,
    "a pipe": pipe,
    "a folder": lambda path: path.mkdir(),
}
