"""Whatever a client writes to a channel's window, it gets control back with a well-formed reply, or the channel ends.

The invariant, for any input: as in fuzz_socket.py; and when control comes back, data_len is within the window.

An input is a byte and a sequence of hand-overs, length[2] state[1] data_len[4] data[length]. A state below 8 is set as it
is, any other means 1, as a client should; a data_len of 0xffffffff means the right one. An odd first byte leaves out the
handshake.
"""

import os
import struct
import sys

if __name__ == "__main__":
    import atheris  # before what it is to look into

from inside import Inside  # isort: skip
import socket

from fuzz_socket import MOUNT

from gofer.conform.corpus import assert_well_formed
from gofer.conform.transport import DATA, HEADER, ChannelTransport

HAND_OVER = struct.Struct("<HBI")
RIGHT = 0xFFFFFFFF


def one_input(inside: Inside, data: bytes) -> None:
    conn, client = inside.connect()
    client.sock.send(MOUNT + HEADER.pack(0, 2, 0))
    reply = client.replies(2)[1]
    *_, memfd, fd_socket = client.donated
    client.donated.remove(fd_socket)
    channel = ChannelTransport(memfd, socket.socket(fileno=fd_socket), *struct.unpack("<qQ", reply.payload))
    try:
        if not data[:1] or data[0] % 2 == 0:
            assert channel.handshake() == b"{}\n"
        talk(channel, data)
    except ConnectionError:
        pass  # the channel has ended
    finally:
        channel.close()
        inside.end(conn, client)


def talk(channel: ChannelTransport, data: bytes) -> None:
    at = 1
    while at + HAND_OVER.size <= len(data):
        length, state, data_len = HAND_OVER.unpack_from(data, at)
        at += HAND_OVER.size
        text = data[at : at + length]
        at += length
        channel.window[DATA : DATA + len(text)] = text
        struct.pack_into("<I", channel.window, 4, len(text) if data_len == RIGHT else data_len)
        mid = struct.unpack_from("<H", channel.window, DATA)[0]
        if state < 8:
            channel.state = state
        else:
            channel.flip()
        if state == 0:
            continue
        if data[0] % 2:
            channel.take_back()  # a handshake
            continue
        reply = channel.receive()
        for fd in reply.fds:
            os.close(fd)
        assert_well_formed(mid, reply._replace(fds=[]))


if __name__ == "__main__":
    world = Inside()
    atheris.Setup([*sys.argv, "-handle_xfsz=0"], lambda data: one_input(world, data))
    atheris.Fuzz()
