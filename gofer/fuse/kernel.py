"""The FUSE protocol of the kernel: every structure declared once, in the kernel's own names (<linux/fuse.h>, fuse(4)). No I/O.

A `Record` is in the machine's byte order, which on the machines that we run on is little-endian. Above each stands the kernel's
notation: `name[bytes]`; what is only padding is in parentheses. tests/test_mount_codec.py has gcc compare sizes and offsets.
"""

from __future__ import annotations

from gofer.wire import I32, I64, U16, U32, U64, Record

VERSION, MINOR, LEAST_MINOR = 7, 45, 31
ROOT_ID = 1
MIN_READ_BUFFER = 8192

# in_header  len[4] opcode[4] unique[8] nodeid[8] uid[4] gid[4] pid[4] total_extlen[2] (padding[2])
InHeader = Record(
    "in_header", len=U32, opcode=U32, unique=U64, nodeid=U64, uid=U32, gid=U32, pid=U32, total_extlen=U16, _padding="2x"
)
# out_header len[4] error[4] unique[8]
OutHeader = Record("out_header", len=U32, error=I32, unique=U64)

_ATTR = {
    "ino": U64, "size": U64, "blocks": U64, "atime": I64, "mtime": I64, "ctime": I64, "atimensec": U32, "mtimensec": U32,
    "ctimensec": U32, "mode": U32, "nlink": U32, "uid": U32, "gid": U32, "rdev": U32, "blksize": U32, "flags": U32,
}  # fmt: skip
# attr       ino[8] size[8] blocks[8] atime[8] mtime[8] ctime[8] atimensec[4] mtimensec[4] ctimensec[4] mode[4] nlink[4] uid[4] gid[4] rdev[4] blksize[4] flags[4]
Attr = Record("attr", **_ATTR)
ATTR = "88s"
# entry_out  nodeid[8] generation[8] entry_valid[8] attr_valid[8] entry_valid_nsec[4] attr_valid_nsec[4] attr[88]
EntryOut = Record(
    "entry_out", nodeid=U64, generation=U64, entry_valid=U64, attr_valid=U64, entry_valid_nsec=U32, attr_valid_nsec=U32,
    attr=ATTR,
)  # fmt: skip
# attr_out   attr_valid[8] attr_valid_nsec[4] (dummy[4]) attr[88]
AttrOut = Record("attr_out", attr_valid=U64, attr_valid_nsec=U32, _dummy="4x", attr=ATTR)
# statx_out  attr_valid[8] attr_valid_nsec[4] flags[4] (spare[16]) stat[256], of which the last 112 are spare
StatxOut = Record("statx_out", attr_valid=U64, attr_valid_nsec=U32, flags=U32, _spare="16x", stat="144s", _spare2="112x")

# forget_in  nlookup[8]
ForgetIn = Record("forget_in", nlookup=U64)
# forget_one nodeid[8] nlookup[8]
ForgetOne = Record("forget_one", nodeid=U64, nlookup=U64)
# batch_forget_in count[4] (dummy[4])
BatchForgetIn = Record("batch_forget_in", count=U32, _dummy="4x")
# getattr_in getattr_flags[4] (dummy[4]) fh[8]
GetattrIn = Record("getattr_in", getattr_flags=U32, _dummy="4x", fh=U64)
# statx_in   getattr_flags[4] (reserved[4]) fh[8] sx_flags[4] sx_mask[4]
StatxIn = Record("statx_in", getattr_flags=U32, _reserved="4x", fh=U64, sx_flags=U32, sx_mask=U32)
# mknod_in   mode[4] rdev[4] umask[4] (padding[4])
MknodIn = Record("mknod_in", mode=U32, rdev=U32, umask=U32, _padding="4x")
# mkdir_in   mode[4] umask[4]
MkdirIn = Record("mkdir_in", mode=U32, umask=U32)
# rename_in  newdir[8]
RenameIn = Record("rename_in", newdir=U64)
# rename2_in newdir[8] flags[4] (padding[4])
Rename2In = Record("rename2_in", newdir=U64, flags=U32, _padding="4x")
# link_in    oldnodeid[8]
LinkIn = Record("link_in", oldnodeid=U64)
# setattr_in valid[4] (padding[4]) fh[8] size[8] lock_owner[8] atime[8] mtime[8] ctime[8] atimensec[4] mtimensec[4] ctimensec[4] mode[4] (unused4[4]) uid[4] gid[4] (unused5[4])
SetattrIn = Record(
    "setattr_in", valid=U32, _padding="4x", fh=U64, size=U64, lock_owner=U64, atime=I64, mtime=I64, ctime=I64, atimensec=U32,
    mtimensec=U32, ctimensec=U32, mode=U32, _unused4="4x", uid=U32, gid=U32, _unused5="4x",
)  # fmt: skip
# open_in    flags[4] open_flags[4]
OpenIn = Record("open_in", flags=U32, open_flags=U32)
# create_in  flags[4] mode[4] umask[4] open_flags[4]
CreateIn = Record("create_in", flags=U32, mode=U32, umask=U32, open_flags=U32)
# open_out   fh[8] open_flags[4] backing_id[4]
OpenOut = Record("open_out", fh=U64, open_flags=U32, backing_id=I32)
# release_in fh[8] flags[4] release_flags[4] lock_owner[8]
ReleaseIn = Record("release_in", fh=U64, flags=U32, release_flags=U32, lock_owner=U64)
# read_in    fh[8] offset[8] size[4] read_flags[4] lock_owner[8] flags[4] (padding[4])
ReadIn = Record(
    "read_in", fh=U64, offset=U64, size=U32, read_flags=U32, lock_owner=U64, flags=U32, _padding="4x"
)  # fmt: skip
# write_in   fh[8] offset[8] size[4] write_flags[4] lock_owner[8] flags[4] (padding[4])
WriteIn = Record(
    "write_in", fh=U64, offset=U64, size=U32, write_flags=U32, lock_owner=U64, flags=U32, _padding="4x"
)  # fmt: skip
# write_out  size[4] (padding[4])
WriteOut = Record("write_out", size=U32, _padding="4x")
# kstatfs    blocks[8] bfree[8] bavail[8] files[8] ffree[8] bsize[4] namelen[4] frsize[4] (padding[4]) (spare[24])
Kstatfs = Record(
    "kstatfs", blocks=U64, bfree=U64, bavail=U64, files=U64, ffree=U64, bsize=U32, namelen=U32, frsize=U32, _padding="4x",
    _spare="24x",
)  # fmt: skip
# flush_in   fh[8] (unused[4]) (padding[4]) lock_owner[8]
FlushIn = Record("flush_in", fh=U64, _unused="4x", _padding="4x", lock_owner=U64)
# fsync_in   fh[8] fsync_flags[4] (padding[4])
FsyncIn = Record("fsync_in", fh=U64, fsync_flags=U32, _padding="4x")
# setxattr_in size[4] flags[4], which is all of it without SETXATTR_EXT
SetxattrIn = Record("setxattr_in", size=U32, flags=U32)
# getxattr_in size[4] (padding[4])
GetxattrIn = Record("getxattr_in", size=U32, _padding="4x")
# getxattr_out size[4] (padding[4])
GetxattrOut = Record("getxattr_out", size=U32, _padding="4x")
# access_in  mask[4] (padding[4])
AccessIn = Record("access_in", mask=U32, _padding="4x")
# interrupt_in unique[8]
InterruptIn = Record("interrupt_in", unique=U64)
# fallocate_in fh[8] offset[8] length[8] mode[4] (padding[4])
FallocateIn = Record("fallocate_in", fh=U64, offset=U64, length=U64, mode=U32, _padding="4x")
# lseek_in   fh[8] offset[8] whence[4] (padding[4])
LseekIn = Record("lseek_in", fh=U64, offset=U64, whence=U32, _padding="4x")
# lseek_out  offset[8]
LseekOut = Record("lseek_out", offset=U64)
# copy_file_range_in fh_in[8] off_in[8] nodeid_out[8] fh_out[8] off_out[8] len[8] flags[8]
CopyFileRangeIn = Record(
    "copy_file_range_in", fh_in=U64, off_in=U64, nodeid_out=U64, fh_out=U64, off_out=U64, len=U64, flags=U64
)
# dirent     ino[8] off[8] namelen[4] type[4], and the name, padded to 8
Dirent = Record("dirent", ino=U64, off=U64, namelen=U32, type=U32)
# init_in    major[4] minor[4] max_readahead[4] flags[4], and with INIT_EXT flags2[4] (unused[44])
InitIn = Record("init_in", major=U32, minor=U32, max_readahead=U32, flags=U32)
# init_out   major[4] minor[4] max_readahead[4] flags[4] max_background[2] congestion_threshold[2] max_write[4] time_gran[4] max_pages[2] map_alignment[2] flags2[4] max_stack_depth[4] (unused[24])
InitOut = Record(
    "init_out", major=U32, minor=U32, max_readahead=U32, flags=U32, max_background=U16, congestion_threshold=U16,
    max_write=U32, time_gran=U32, max_pages=U16, map_alignment=U16, flags2=U32, max_stack_depth=U32, _unused="24x",
)  # fmt: skip
# notify_inval_inode_out ino[8] off[8] len[8]
NotifyInvalInodeOut = Record("notify_inval_inode_out", ino=U64, off=I64, len=I64)
# notify_inval_entry_out parent[8] namelen[4] flags[4], and the name, and NUL
NotifyInvalEntryOut = Record("notify_inval_entry_out", parent=U64, namelen=U32, flags=U32)
# notify_prune_out count[4] (padding[4]) (spare[8]), and so many nodeid[8]
NotifyPruneOut = Record("notify_prune_out", count=U32, _padding="4x", _spare="8x")
# backing_map fd[4] flags[4] (padding[8])
BackingMap = Record("backing_map", fd=I32, flags=U32, _padding="8x")

OPCODES = {
    "LOOKUP": 1, "FORGET": 2, "GETATTR": 3, "SETATTR": 4, "READLINK": 5, "SYMLINK": 6, "MKNOD": 8, "MKDIR": 9, "UNLINK": 10,
    "RMDIR": 11, "RENAME": 12, "LINK": 13, "OPEN": 14, "READ": 15, "WRITE": 16, "STATFS": 17, "RELEASE": 18, "FSYNC": 20,
    "SETXATTR": 21, "GETXATTR": 22, "LISTXATTR": 23, "REMOVEXATTR": 24, "FLUSH": 25, "INIT": 26, "OPENDIR": 27, "READDIR": 28,
    "RELEASEDIR": 29, "FSYNCDIR": 30, "GETLK": 31, "SETLK": 32, "SETLKW": 33, "ACCESS": 34, "CREATE": 35, "INTERRUPT": 36,
    "BMAP": 37, "DESTROY": 38, "IOCTL": 39, "POLL": 40, "NOTIFY_REPLY": 41, "BATCH_FORGET": 42, "FALLOCATE": 43,
    "READDIRPLUS": 44, "RENAME2": 45, "LSEEK": 46, "COPY_FILE_RANGE": 47, "SETUPMAPPING": 48, "REMOVEMAPPING": 49,
    "SYNCFS": 50, "TMPFILE": 51, "STATX": 52,
}  # fmt: skip
NAMES = {number: name for name, number in OPCODES.items()}
LOOKUP, FORGET, INIT, DESTROY, INTERRUPT, BATCH_FORGET = 1, 2, 26, 38, 36, 42

# INIT: what either side can do
ASYNC_READ = 1 << 0
ATOMIC_O_TRUNC = 1 << 3
BIG_WRITES = 1 << 5
AUTO_INVAL_DATA = 1 << 12
DO_READDIRPLUS = 1 << 13
ASYNC_DIO = 1 << 15
WRITEBACK_CACHE = 1 << 16
PARALLEL_DIROPS = 1 << 18
ABORT_ERROR = 1 << 21
MAX_PAGES = 1 << 22
CACHE_SYMLINKS = 1 << 23
HANDLE_KILLPRIV_V2 = 1 << 28
INIT_EXT = 1 << 30
PASSTHROUGH = 1 << 37

GETATTR_FH = 1
FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE, FATTR_ATIME, FATTR_MTIME, FATTR_FH = (1 << bit for bit in range(7))
FATTR_ATIME_NOW, FATTR_MTIME_NOW = 1 << 7, 1 << 8
FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_PASSTHROUGH = 1 << 0, 1 << 1, 1 << 7
FOPEN_CACHE_DIR = 1 << 3
FSYNC_FDATASYNC = 1
WRITE_CACHE = 1

NOTIFY_INVAL_INODE, NOTIFY_INVAL_ENTRY, NOTIFY_PRUNE = 2, 3, 9

# ioctl(2) of /dev/fuse: _IOW(229, 1, struct fuse_backing_map), _IOW(229, 2, uint32_t)
DEV_IOC_BACKING_OPEN = 0x40000000 | BackingMap.size << 16 | 229 << 8 | 1
DEV_IOC_BACKING_CLOSE = 0x40000000 | 4 << 16 | 229 << 8 | 2


def padded(name: bytes) -> bytes:
    """To 8 bytes, as behind a dirent."""
    return name + bytes(-len(name) % 8)


def device_number(major: int, minor: int) -> int:
    """As the kernel packs one into 32 bits (new_encode_dev)."""
    return minor & 0xFF | major << 8 & 0xFFF00 | (minor & 0xFFF00) << 12
