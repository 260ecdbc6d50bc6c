# cython: language_level=3, cdivision=True
"""A guard without its loop: one scan at a time, on clocks, samples and replies of the test's own.

``Stepper`` drives fastpath.scanner's Scanner over a shared file in memory. Samples and commands of
the gateway travel as real messages over a socket pair; polls and the devices' replies are told by
calls. Nothing here decides anything: it only stands where sockets and time would.
"""

import functools
import mmap
import os
import socket

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset
from posix.mman cimport munmap

from fastpath.delivery cimport (
    output_expired, output_parted, output_replied, output_sent, outputs_link_down, outputs_link_up,
)
from fastpath.evaluate cimport _HIGH, _LOW, _STARTING, _UNUSABLE, Register
from fastpath.intake cimport intake_store
from fastpath.journal cimport Stamp
from fastpath.mailbox cimport mailbox_event
from fastpath.difference cimport difference_of
from fastpath.outputs cimport outputs_confirmed
from fastpath.recover cimport runtime_latches
from fastpath.runtime cimport Runtime, parts_ready, runtime_load
from fastpath.scan cimport scan_answer_load, scan_once, scan_swap, scanner_begin
from fastpath.scanner cimport LOAD_ANSWERED, LOAD_ASKED, LOAD_READY, LOAD_SWAPPED, Scanner
from fastpath.program cimport truth_of
from fastpath.types cimport InstructionDef, _LINK_DOWN, _LINK_UP, _RESULT_DONE

from fastpath import blob as blobs
from fastpath import journal, messages
from fastpath.codes import MessageType, Quality

SESSION = 0
POLLIN = 1
# Ahead of every real clock: what a scan takes by the real one is nothing, so none overruns.
FAR_NS = 10**17


cdef void _free_runtime(Runtime* rt) noexcept:
    if rt.space != NULL:
        munmap(rt.space, rt.space_bytes)
    memset(rt, 0, sizeof(Runtime))


cdef class Stepper:
    """One site's guard over its lives. Made of a verified blob, as a first start by default.

    ``now`` has the three clocks in ns; ``advance`` moves them together, ``utc_ns`` alone is a step
    of the wall clock, ``boot_ns`` without ``mono_ns`` a suspend. ``view`` reads the shared file.
    """

    cdef Scanner scanner
    cdef Runtime runtimes[2]
    cdef Stamp now
    cdef int memory
    cdef object map
    cdef uint8_t[:] bytes_
    cdef object near
    cdef object far
    cdef readonly object view
    cdef readonly bint alive
    cdef readonly int restored

    def __cinit__(self):
        self.memory = -1
        self.near = None
        self.far = None
        self.view = None
        self.map = None
        self.alive = False
        memset(&self.runtimes, 0, sizeof(self.runtimes))

    def __init__(self, bytes blob=blobs.EMPTY, *, int64_t start_ns=FAR_NS, **life):
        self.now.mono_ns = start_ns
        self.now.boot_ns = start_ns
        self.now.utc_ns = 1_700_000_000_000_000_000
        self._new_memory()
        self.begin(blob, **life)

    def __dealloc__(self):
        _free_runtime(&self.runtimes[0])
        _free_runtime(&self.runtimes[1])
        if self.alive:
            self._free_parts()

    # ---- lives

    def _new_memory(self):
        """guard.shm as the guard makes it, in memory; what stood there before is gone."""
        self._close_memory()
        self.memory = os.memfd_create("guard.shm")
        os.ftruncate(self.memory, journal.SHM_BYTES)
        os.pwrite(self.memory, journal._new_header(bytes(16)), 0)
        os.pwrite(self.memory, (1).to_bytes(8, "little") * 2, 704)  # event_head, event_tail
        self.map = mmap.mmap(self.memory, journal.SHM_BYTES)
        self.bytes_ = self.map
        self.view = journal.GuardView(f"/proc/self/fd/{self.memory}")

    def _close_memory(self):
        if self.memory < 0:
            return
        self.view.close()
        self.bytes_ = None
        self.map.close()
        os.close(self.memory)
        self.memory = -1

    cdef void _free_parts(self) noexcept:
        munmap(self.scanner.parts.space, self.scanner.parts.space_bytes)

    def begin(
        self, bytes blob, *, bint power_loss=False, bint lost_program=False, interlocks=None,
        outputs=None,
    ):
        """A new life over the same shared file; the latches are those of a clean stop."""
        self.crash()
        self.restored = scanner_begin(
            &self.scanner, &self.bytes_[0], self.runtimes, blob, power_loss, lost_program,
            interlocks or {}, outputs or {}, &self.now)
        self.scanner.shm.live.gateway_connected = 0
        self.scanner.shm.live.last_message_mono_ns = 0
        self.alive = True

    def crash(self):
        """kill -9: only the shared file is left."""
        self.disconnect(told=False)
        if self.alive:
            self._free_parts()
        self.alive = False
        _free_runtime(&self.runtimes[0])
        _free_runtime(&self.runtimes[1])

    def restart(self, bytes blob):
        """kill -9 and a new life under ``blob``, the last good program."""
        self.begin(blob)

    def lose_power(self, bytes blob, int64_t uptime_ns=60_000_000_000):
        """Another boot without a clean stop: other clocks, an empty file."""
        self.crash()
        self._boot(uptime_ns)
        self.begin(blob, power_loss=True)

    def reboot(self, bytes blob, int64_t uptime_ns=60_000_000_000):
        """A clean stop and another boot."""
        interlocks, outputs = self.latches()
        self.crash()
        self._boot(uptime_ns)
        self.begin(blob, interlocks=interlocks, outputs=outputs)

    def _boot(self, int64_t uptime_ns):
        self.now.mono_ns = FAR_NS + uptime_ns
        self.now.boot_ns = FAR_NS + uptime_ns
        self._new_memory()

    def latches(self):
        """(interlocks, outputs) as a clean stop keeps them."""
        return runtime_latches(self.scanner.current, self.now.boot_ns)

    def close(self):
        """Nothing is left of it."""
        self.crash()
        self._close_memory()

    # ---- clocks

    @property
    def mono_ns(self):
        return self.now.mono_ns

    @mono_ns.setter
    def mono_ns(self, int64_t value):
        self.now.mono_ns = value

    @property
    def boot_ns(self):
        return self.now.boot_ns

    @boot_ns.setter
    def boot_ns(self, int64_t value):
        self.now.boot_ns = value

    @property
    def utc_ns(self):
        return self.now.utc_ns

    @utc_ns.setter
    def utc_ns(self, int64_t value):
        self.now.utc_ns = value

    def advance(self, int64_t ns):
        """All three clocks."""
        self.now.mono_ns += ns
        self.now.boot_ns += ns
        self.now.utc_ns += ns

    # ---- what comes in

    def poll(self, uint32_t slot, double value, int quality=Quality.GOOD, int reason=0):
        """A reading of the guard's own, as its poller stores it."""
        intake_store(
            &self.scanner.parts.intake, slot, value, <uint8_t>quality, <uint8_t>reason,
            self.now.mono_ns, self.now.utc_ns, &self.now)

    def connect(self, told=True, bint full=True):
        """The gateway's session; ``told``: it says HELLO. Not ``full``: an operator's."""
        self.disconnect()
        self.far, self.near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.far.setblocking(False)
        self.scanner.box.serial += 1
        memset(&self.scanner.box.sessions[SESSION], 0, sizeof(self.scanner.box.sessions[0]))
        self.scanner.box.sessions[SESSION].fd = self.near.detach()
        self.scanner.box.sessions[SESSION].full = full
        self.scanner.box.sessions[SESSION].serial = self.scanner.box.serial
        if told:
            body = messages.HELLO.pack(
                messages.VERSION, messages.VERSION_OLDEST, 0, bytes(16))
            self.send(MessageType.HELLO, body)

    def disconnect(self, told=True):
        """The gateway is gone; ``told``: the guard sees its end of file."""
        if self.far is None:
            return
        self.far.close()
        self.far = None
        if told:
            mailbox_event(&self.scanner.box, SESSION, POLLIN, &self.now)
        elif self.scanner.box.sessions[SESSION].fd >= 0:
            os.close(self.scanner.box.sessions[SESSION].fd)
            self.scanner.box.sessions[SESSION].fd = -1

    @property
    def connected(self):
        """The gateway's session stands."""
        return self.far is not None

    def send(self, kind, bytes body, bytes ident=bytes(16)):
        """A message of the gateway; the guard takes it now (commands: for its next scan)."""
        if self.far is None:
            self.connect()
        self.far.send(messages.pack(kind, body, ident))
        mailbox_event(&self.scanner.box, SESSION, POLLIN, &self.now)

    def datagram(self, bytes message):
        """Any bytes of the session; False: the guard has ended it."""
        self.far.send(message)
        mailbox_event(&self.scanner.box, SESSION, POLLIN, &self.now)
        return self.scanner.box.sessions[SESSION].fd >= 0

    def raw(self, bytes data):
        """Anything at all on the gateway's session."""
        if self.far is None:
            self.connect()
        self.far.send(data)
        mailbox_event(&self.scanner.box, SESSION, POLLIN, &self.now)
        if self.scanner.box.sessions[SESSION].fd < 0:
            self.far.close()
            self.far = None

    def received(self):
        """[(MessageType, id, body)] of what the guard has sent."""
        out = []
        while self.far is not None:
            try:
                message = self.far.recv(messages.MESSAGE_BYTES_MAX)
            except BlockingIOError:
                break
            if not message:
                break
            out.append(messages.unpack(message))
        return out

    def results(self):
        """{command id: messages.Result} of what the guard has answered."""
        return {
            ident: messages.result_of(body)
            for kind, ident, body in self.received() if kind == MessageType.RESULT
        }

    # ---- one scan

    def step(self, int64_t after_ns=0):
        """Let time pass, then what the loop does: LOAD's answer, swap, scan."""
        self.advance(after_ns)
        with nogil:
            scan_answer_load(&self.scanner, &self.now)
            scan_swap(&self.scanner, &self.now)
            scan_once(&self.scanner, &self.now)
        if self.scanner.load.state == LOAD_SWAPPED:
            self.refuse(_RESULT_DONE, 0)

    # ---- the main thread's part of a LOAD

    def asked(self):
        """(hash, expected hash, step) of a LOAD that waits, or None."""
        if self.scanner.load.state != LOAD_ASKED:
            return None
        return (
            <bytes>self.scanner.load.command.hash[:32],
            <bytes>self.scanner.load.command.expected[:32], self.scanner.load.command.step)

    def offer(self, bytes blob):
        """A verified program for the border of the next scan, asked for or not; what it weakens."""
        if not runtime_load(self.scanner.spare, <const uint8_t*><char*>blob, len(blob)):
            raise ValueError("not a program")
        parts_ready(&self.scanner.parts, &self.scanner.spare.program)
        difference_of(self.scanner.spare, self.scanner.current)
        self.scanner.load.state = LOAD_READY
        return self.scanner.spare.weakened

    def refuse(self, uint32_t code, uint32_t detail=0):
        """Answer a LOAD, at the next scan."""
        self.scanner.load.code = code
        self.scanner.load.detail = detail
        self.scanner.load.state = LOAD_ANSWERED

    @property
    def load_code(self):
        """ResultCode of the newest swap or refusal."""
        return self.scanner.load.code

    # ---- devices

    def device(self, uint32_t device, bint up):
        """The read connection of a device came or went, as the poller says it."""
        self.scanner.current.device_up[device] = up
        self.scanner.shm.devices[device].state = _LINK_UP if up else _LINK_DOWN

    def heard(self, uint32_t device):
        """A good exchange with it now."""
        self.scanner.shm.devices[device].good_ns = self.now.mono_ns

    def link_down(self, uint32_t device):
        """The connection that carries its outputs ended."""
        outputs_link_down(&self.scanner.parts.bank, device, &self.now)

    def link_up(self, uint32_t device):
        """A new one stands."""
        outputs_link_up(&self.scanner.parts.bank, device, &self.now)

    def wish(self, uint32_t output):
        """What is to be written: 0 nothing, 1 trip, 2 normal."""
        return self.scanner.parts.bank.runs[output].wish

    def sent(self, uint32_t output):
        """The wish is on the wire."""
        output_sent(&self.scanner.parts.bank, output, 0, &self.now)

    def replied(self, uint32_t output, bint refused=False):
        """The device's own reply to the outstanding write."""
        output_replied(&self.scanner.parts.bank, output, refused, &self.now)

    def expired(self, uint32_t output):
        """No reply in its time."""
        output_expired(&self.scanner.parts.bank, output)

    def parted(self, uint32_t output):
        """A write that it shared was refused: alone, again."""
        output_parted(&self.scanner.parts.bank, output, &self.now)

    @property
    def confirmed(self):
        """What STOP waits for."""
        return outputs_confirmed(&self.scanner.parts.bank)

    @property
    def stop_by_ns(self):
        """Until when STOP waits, 0: none."""
        return self.scanner.stop_by_ns

    # ---- damage

    def interlock_at(self, uint32_t index):
        """Where an interlock's pair stands in the shared file, for ``memory_at``."""
        return <char*>&self.scanner.shm.interlocks[index] - <char*>&self.bytes_[0]

    def output_at(self, uint32_t index):
        """Where an output's pair stands in it."""
        return <char*>&self.scanner.shm.outputs[index] - <char*>&self.bytes_[0]

    def tag_bypass_at(self, uint32_t index):
        """Where a tag bypass's pair stands in it."""
        return <char*>&self.scanner.shm.tag_bypasses[index] - <char*>&self.bytes_[0]

    def break_code(self):
        """An instruction that no verified program has, as a flipped bit would make it.

        Returns what makes it whole again.
        """
        code = <InstructionDef*>&self.scanner.current.program.code[0]
        op = code.op
        code.op = 255
        return functools.partial(self._mend_code, op)

    def _mend_code(self, op):
        (<InstructionDef*>&self.scanner.current.program.code[0]).op = op

    # ---- what it made of it

    def truth(self, uint32_t register):
        """codes.Truth of a register after the newest scan."""
        return truth_of(&self.scanner.parts.registers[register])

    def runs(self, uint32_t register):
        """(low, high, starting) of a truth register."""
        cdef uint32_t state = self.scanner.parts.registers[register].state
        return int(state & _LOW != 0), int(state & _HIGH != 0), int(state & _STARTING != 0)

    def number(self, uint32_t register):
        """(value, bad) of a number register."""
        cdef const Register* r = &self.scanner.parts.registers[register]
        return r.value.number, int(r.state & _UNUSABLE != 0)

    def events(self, uint64_t since=0):
        """Journal records from a seq on (records.Event)."""
        return self.view.events(since, 1_000_000)

    def memory_at(self, size_t offset, size_t length):
        """A writable piece of the shared file, to damage it."""
        return memoryview(self.map)[offset : offset + length]
