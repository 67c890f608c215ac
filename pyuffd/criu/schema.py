"""The messages of CRIU's images that pyuffd reads, and the numbers beside them.

The facts are those of CRIU's own description of its format, https://github.com/checkpoint-restore/criu: images/*.proto
(version 4.2, and 4.3 for compressed pages), criu/include/magic.h, criu/include/image.h
and criu/include/pagemap.h. Fields that are not needed are left out: protobuf skips them.
"""

from typing import Any

try:
    from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("CRIU's images need protobuf: pip install 'pyuffd[criu]'", name=error.name) from None

# criu/include/magic.h. Every image but the inventory begins with COMMON_MAGIC, since version 2 of the images.
COMMON_MAGIC = 0x54564319
INVENTORY_MAGIC = 0x58313116
PSTREE_MAGIC = 0x50273030
CORE_MAGIC = 0x55053847
MM_MAGIC = 0x57492820
PAGEMAP_MAGIC = 0x56084025

# CRTOOLS_IMAGES_V1, _V1_1 and _V1_2: the first has no common magic, the last may have compressed pages.
VERSIONS = (1, 2, 3)
COMPRESSED_VERSION = 3

# criu/include/pagemap.h: flags of a pagemap entry.
PE_PARENT = 1 << 0
PE_LAZY = 1 << 1
PE_PRESENT = 1 << 2
PE_PAYLOAD_ALIGNED = 1 << 3

# criu/include/image.h: bits of a VMA's status.
VMA_AREA_VSYSCALL = 1 << 2
VMA_AREA_VDSO = 1 << 3
VMA_FILE_PRIVATE = 1 << 6
VMA_FILE_SHARED = 1 << 7
VMA_ANON_SHARED = 1 << 8
VMA_ANON_PRIVATE = 1 << 9
VMA_AREA_SYSVIPC = 1 << 10
VMA_AREA_VVAR = 1 << 12
VMA_AREA_GUARD = 1 << 16

_TABLE = {
    # images/inventory.proto
    "inventory_entry": ["1 required uint32 img_version", "2 optional bool fdinfo_per_id"],
    # images/pstree.proto
    "pstree_entry": [
        "1 required uint32 pid",
        "2 required uint32 ppid",
        "3 required uint32 pgid",
        "4 required uint32 sid",
        "5 repeated uint32 threads",
    ],
    # images/core.proto; mtype is an enumeration there, which looks the same
    "task_core_entry": [
        "1 required uint32 task_state",
        "2 required uint32 exit_code",
        "3 required uint32 personality",
        "4 required uint32 flags",
        "5 required uint64 blk_sigset",
        "6 required bytes comm",
    ],
    "core_entry": ["1 required int32 mtype", "3 optional task_core_entry tc"],
    # images/vma.proto
    "vma_entry": [
        "1 required uint64 start",
        "2 required uint64 end",
        "3 required uint64 pgoff",
        "4 required uint64 shmid",
        "5 required uint32 prot",
        "6 required uint32 flags",
        "7 required uint32 status",
        "8 required sint64 fd",
        "9 optional uint64 madv",
        "10 optional uint32 fdflags",
    ],
    # images/mm.proto
    "mm_entry": [
        "1 required uint64 mm_start_code",
        "2 required uint64 mm_end_code",
        "3 required uint64 mm_start_data",
        "4 required uint64 mm_end_data",
        "5 required uint64 mm_start_stack",
        "6 required uint64 mm_start_brk",
        "7 required uint64 mm_brk",
        "8 required uint64 mm_arg_start",
        "9 required uint64 mm_arg_end",
        "10 required uint64 mm_env_start",
        "11 required uint64 mm_env_end",
        "12 required uint32 exe_file_id",
        "13 repeated uint64 mm_saved_auxv",
        "14 repeated vma_entry vmas",
    ],
    # images/pagemap.proto; nr_pages was field 2 until CRIU 4.2
    "pagemap_head": ["1 required uint32 pages_id"],
    "pagemap_entry": [
        "1 required uint64 vaddr",
        "2 required uint32 compat_nr_pages",
        "3 optional bool in_parent",
        "4 optional uint32 flags",
        "5 optional uint64 nr_pages",
        "6 optional pagemap_blocks blocks",
    ],
    "pagemap_blocks": [
        "1 packed uint32 block_sizes",
        "2 required uint64 total_payload_size",
        "3 required uint32 pages_per_block",
    ],
}

# The same, with the mappings as they stand: a restore needs their borders, of thousands, at once.
_TABLE["mm_outline"] = [*_TABLE["mm_entry"][:-1], "14 repeated bytes vmas"]

_PACKAGE = "pyuffd.criu"
_FIELD = descriptor_pb2.FieldDescriptorProto


def _fill(field: Any, label: str, kind: str) -> None:
    """Set label and type of a field as its row of the table says."""
    field.label = getattr(_FIELD, f"LABEL_{'REPEATED' if label == 'packed' else label.upper()}")
    if label == "packed":
        field.options.packed = True
    scalar = getattr(_FIELD, f"TYPE_{kind.upper()}", None)
    if scalar is None:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
    else:
        field.type = scalar


def _build() -> dict[str, Any]:
    described = descriptor_pb2.FileDescriptorProto(name="pyuffd/criu", package=_PACKAGE, syntax="proto2")
    for name, rows in _TABLE.items():
        entry = described.message_type.add(name=name)
        for row in rows:
            number, label, kind, field = row.split()
            _fill(entry.field.add(name=field, number=int(number)), label, kind)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(described.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}")) for name in _TABLE}


# The class of each message, by CRIU's name of it.
MESSAGES = _build()
DecodeError = message.DecodeError
