"""The process that asks the HDF5 library about a file of unknown origin; `malade_ref.storage.foreign` starts it.

It is run as a script, so that it imports no more than it needs. It reads one request a line (JSON) from standard
input and answers each by the length of a JSON object, that object, and the bytes of an array if one was asked for.
Limits of memory, time and file size hold before the file is opened: at worst this process dies, and says nothing more.
"""

import json
import math
import os
import resource
import struct
import sys
from typing import Any

import h5py
import numpy as np

FILTERS = {
    h5py.h5z.FILTER_DEFLATE: "gzip",
    h5py.h5z.FILTER_SHUFFLE: "shuffle",
    h5py.h5z.FILTER_FLETCHER32: "fletcher32",
}
MAX_WORD = 256


def _limit(kind: int, value: int) -> None:
    """Lower a soft limit; what the system does not know or allow is left as it is."""
    try:
        hard = resource.getrlimit(kind)[1]
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(kind, (value, hard))
    except (ValueError, OSError):
        pass


def _memory() -> int:
    """Bytes of private memory of this process."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) << 10 for line in status if line.startswith("VmData:"))
    except (OSError, StopIteration):
        return 1 << 30


def _describe(file: h5py.File, name: str) -> dict[str, Any]:
    """What is known of an array before any of it is read; ``wrong`` if it is none that can be read."""
    # A soft or external link, or a virtual array, could lead to another file.
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        return {"wrong": "is a link; save the array itself"}
    kind = h5py.h5o.get_info(file.id, name.encode()).type
    if kind != h5py.h5o.TYPE_DATASET:
        return {"wrong": "is no array; save it as one"}
    dataset = file[name]
    layout = dataset.id.get_create_plist()
    if dataset.shape is None or layout.get_external_count() or layout.get_layout() == h5py.h5d.VIRTUAL:
        return {"wrong": "is no plain array in this file; save it as one"}
    for number in range(layout.get_nfilters()):
        code, _, _, label = layout.get_filter(number)
        if code not in FILTERS and code != 32000:  # 32000: lzf, which comes with h5py
            label = label.decode("ascii", "replace").split("\0")[0] or str(code)
            return {"wrong": f"is packed by the filter {label[:40]!r}; save it with gzip or unpacked"}
    if h5py.check_string_dtype(dataset.dtype) and h5py.check_string_dtype(dataset.dtype).length is None:
        # Such words lie in a heap of the file, and HDF5 may loop forever in a damaged one.
        return {"wrong": "holds words of variable length, expected numbers or short words; save it .astype('S10')"}
    dtype = dataset.dtype
    if dtype.kind not in "biufS" or dtype.itemsize > MAX_WORD or dtype.shape:
        return {"wrong": f"holds {str(dtype)[:60]}, expected numbers or short words; save it as such"}
    return {
        "shape": list(dataset.shape),
        "dtype": dtype.str,
        "stored": dataset.id.get_storage_size(),
        "chunk": math.prod(dataset.chunks or (0,)) * dtype.itemsize,
    }


def _answer(file: h5py.File, request: dict[str, Any]) -> tuple[dict[str, Any], bytes]:
    """The answer to a request, and the bytes that follow it."""
    if request["do"] == "describe":
        return {name: _describe(file, name) for name in request["names"] if name in file}, b""
    dataset = file[request["name"]]
    values = dataset[request["first"] : request["last"]] if dataset.ndim else dataset[()]
    return {}, np.ascontiguousarray(values).tobytes()


def _main() -> None:
    """Answer requests until there are no more."""
    descriptor, max_memory, max_seconds = map(int, sys.argv[1:])
    _limit(resource.RLIMIT_CORE, 0)
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_DATA, _memory() + max_memory)
    file = None
    for line in sys.stdin.buffer:
        used = resource.getrusage(resource.RUSAGE_SELF)
        _limit(resource.RLIMIT_CPU, int(used.ru_utime + used.ru_stime) + max_seconds + 1)
        content = b""
        try:
            if file is None:
                file = h5py.File(os.fdopen(descriptor, "rb"), "r")
            reply, content = _answer(file, json.loads(line))
        except MemoryError:
            reply = {"error": f"it takes more than {max_memory >> 20} MiB of memory"}
        except Exception as error:  # HDF5 reports damage as almost any exception
            reply = {"error": " ".join(str(error).split())[:200] or type(error).__name__}
        text = json.dumps(reply).encode()
        sys.stdout.buffer.write(struct.pack("<QQ", len(text), len(content)) + text)
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _main()
