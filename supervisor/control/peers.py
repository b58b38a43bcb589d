"""Who is at the other end of the socket, by what the kernel says."""

import grp
import pwd
import socket
import struct
from dataclasses import dataclass
from typing import Final

#: Linux, asm-generic/socket.h; Python's socket module has no name for it.
_SO_PEERGROUPS: Final = 59
#: Python asks the kernel for 1024 bytes at the most, four a group.
_MAX_GROUPS: Final = 256


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A caller, as it was when it connected."""

    pid: int
    uid: int
    groups: frozenset[int]

    @property
    def name(self) -> str:
        """The user's name, or ``uid N`` if it has none."""
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return f"uid {self.uid}"


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end of a connected AF_UNIX socket; supplementary groups count."""
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, 4 * _MAX_GROUPS)
    except OSError:
        # ERANGE: more groups than fit. What was left out can only have widened what the caller may do.
        raw = b""
    groups = struct.unpack(f"{len(raw) // 4}I", raw)
    return Peer(pid=pid, uid=uid, groups=frozenset({gid, *groups}))


def may_change(peer: Peer, own_uid: int, admin_group: str | None) -> bool:
    """Whether a caller may change things: root, the daemon's own user, and members of the admin group."""
    if peer.uid in {0, own_uid}:
        return True
    try:
        return admin_group is not None and grp.getgrnam(admin_group).gr_gid in peer.groups
    except KeyError:
        return False
