"""Two network namespaces and a path between them that loses, delays and reorders IP packets.

Real loss: each namespace has a TUN interface, and what one sends is written to the other here, or
not. Both ends' TCP does all that it does over a bad radio link. A socket belongs to the namespace
of the thread that made it: what begins inside :meth:`LossyPath.far` is on the other side, a process
too.
"""

import asyncio
import ctypes
import fcntl
import os
import random
import shutil
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager

NEAR, FAR = "192.0.2.1", "192.0.2.2"

_OWN = "/proc/thread-self/ns/net"
_TUN = "/dev/net/tun"
_NEW_NET = 0x40000000  # CLONE_NEWNET
_SET_IFF = 0x400454CA  # TUNSETIFF
_IFF = struct.Struct("16sH22x")
_BARE_TUN = 0x1001  # IFF_TUN | IFF_NO_PI
_PACKET_BYTES_MAX = 65_536
_LIBC = ctypes.CDLL(None, use_errno=True)


def why_not() -> str:
    """What this machine lacks for it; "" where it has all."""
    if shutil.which("ip") is None:
        return "needs ip of iproute2"
    if not os.access(_TUN, os.R_OK | os.W_OK):
        return f"needs {_TUN}"
    try:
        with _End(NEAR):
            return ""
    except (OSError, subprocess.CalledProcessError) as error:
        return f"needs the right to make network namespaces and interfaces: {error}"


class LossyPath:
    """``share`` of the packets of either direction is lost (0 at first), others take ``delay_s``.

    A packet takes up to ``jitter_s`` more, at random: those behind it may overtake it.
    """

    def __init__(self, delay_s: float, jitter_s: float, seed: int) -> None:
        self.share = 0.0
        self._delay_s = delay_s
        self._jitter_s = jitter_s
        self._random = random.Random(seed)
        self._ends = (_End(NEAR), _End(FAR))
        self._on_their_way: set[asyncio.TimerHandle] = set()
        self.packets = 0
        self.lost = 0

    @contextmanager
    def near(self) -> Iterator[None]:
        """This thread makes its sockets on this side meanwhile."""
        with self._ends[0].inside():
            yield

    @contextmanager
    def far(self) -> Iterator[None]:
        """This thread makes its sockets, and starts its processes, on the other side meanwhile."""
        with self._ends[1].inside():
            yield

    @asynccontextmanager
    async def passing(self) -> AsyncIterator["LossyPath"]:
        """Packets pass."""
        loop = asyncio.get_running_loop()
        with ExitStack() as ends:
            tuns = [ends.enter_context(end) for end in self._ends]
            for from_, to in (tuns, tuns[::-1]):
                loop.add_reader(from_, self._pass, from_, to)
                ends.callback(loop.remove_reader, from_)
            ends.callback(self._drop_all)
            yield self

    def _pass(self, from_: int, to: int) -> None:
        packet = os.read(from_, _PACKET_BYTES_MAX)
        self.packets += 1
        if self._random.random() < self.share:
            self.lost += 1
            return
        loop = asyncio.get_running_loop()
        now_s = loop.time()
        late_s = self._delay_s + self._random.random() * self._jitter_s
        self._on_their_way = {each for each in self._on_their_way if each.when() > now_s}
        self._on_their_way.add(loop.call_later(late_s, _write, to, packet))

    def _drop_all(self) -> None:
        for handle in self._on_their_way:
            handle.cancel()


class _End:
    """A namespace of its own with one interface. ``with`` gives the interface's descriptor."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._held = ExitStack()
        self._space = -1

    def __enter__(self) -> int:
        with self._held as held, _going_back():
            _checked(_LIBC.unshare(_NEW_NET))
            self._space = _opened(held, _OWN, os.O_RDONLY)
            tun = _opened(held, _TUN, os.O_RDWR | os.O_NONBLOCK)
            fcntl.ioctl(tun, _SET_IFF, _IFF.pack(b"lossy", _BARE_TUN))
            for words in (
                "link set lo up",
                f"addr add {self._address}/30 dev lossy",
                "link set lossy up",
            ):
                subprocess.run(["ip", *words.split()], check=True, capture_output=True)
            self._held = held.pop_all()
        return tun

    def __exit__(self, *_: object) -> None:
        self._held.close()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """This thread is there."""
        with _going_back():
            _checked(_LIBC.setns(self._space, _NEW_NET))
            yield


@contextmanager
def _going_back() -> Iterator[None]:
    own = os.open(_OWN, os.O_RDONLY)
    try:
        yield
    finally:
        try:
            _checked(_LIBC.setns(own, _NEW_NET))
        finally:
            os.close(own)


def _opened(held: ExitStack, path: str, flags: int) -> int:
    number = os.open(path, flags | os.O_CLOEXEC)
    held.callback(os.close, number)
    return number


def _write(to: int, packet: bytes) -> None:
    try:
        os.write(to, packet)
    except BlockingIOError:
        return  # a full queue loses packets, too


def _checked(status: int) -> None:
    if status:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
