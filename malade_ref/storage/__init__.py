"""Files that are either whole or absent, and the HDF5 *record* in which every result is kept."""

from malade_ref.storage.files import (
    atomic_write,
    cannot_read,
    cannot_write,
    check_name,
    differences,
    file_sha256,
    from_json,
    is_temporary,
    load_json,
    make_folder,
    one_line,
    sweep,
    to_json,
)
from malade_ref.storage.records import (
    Record,
    RecordReader,
    RecordWriter,
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
    "is_temporary",
    "load_json",
    "load_record",
    "make_folder",
    "one_line",
    "open_record",
    "save_record",
    "sweep",
    "to_json",
    "write_record",
]
