"""Files that are either whole or absent, and the HDF5 *record* in which every result is kept.

A file that cannot be read or written, or is not what it should be, raises `InputError` with its path.
"""

from malade_ref.storage.files import (
    atomic_write,
    cannot_read,
    cannot_write,
    check_name,
    differences,
    file_sha256,
    from_json,
    from_toml,
    is_link,
    is_temporary,
    load_json,
    make_folder,
    one_line,
    opened_folder,
    protect,
    sweep,
    sweep_stale,
    to_json,
)
from malade_ref.storage.records import (
    Record,
    RecordReader,
    RecordWriter,
    is_record,
    load_record,
    open_record,
    save_record,
    write_record,
)

__all__ = [
    "Record",
    "RecordReader",
    "RecordWriter",
    "atomic_write",
    "cannot_read",
    "cannot_write",
    "check_name",
    "differences",
    "file_sha256",
    "from_json",
    "from_toml",
    "is_link",
    "is_record",
    "is_temporary",
    "load_json",
    "load_record",
    "make_folder",
    "one_line",
    "open_record",
    "opened_folder",
    "protect",
    "save_record",
    "sweep",
    "sweep_stale",
    "to_json",
    "write_record",
]
