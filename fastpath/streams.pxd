"""The byte streams that a packed body consists of, and how numbers stand in them."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

# One stream per kind of bytes: each is deflated on its own, as suits its kind.
cdef enum:
    _HEAD = 0  # counts, first values, how everything else is written
    _CALM = 1  # bytes that mostly repeat the one before
    _TIME = 2  # noise of times: the low bytes, then all higher ones
    _TIME_HIGH = 3
    _VALUE = 4  # noise of values by place of the byte, lowest first: 4 .. 11
    _STREAMS = 12


cdef struct Writer:  # of one stream, grows; ``failed``: there was no memory
    uint8_t* at
    size_t length
    size_t capacity
    bint failed


cdef struct Reader:  # of one stream; ``failed``: more was read than there is, or nonsense
    const uint8_t* at
    size_t left
    bint failed


cdef inline uint64_t zigzag(int64_t number) noexcept nogil:
    return (<uint64_t>number << 1) ^ <uint64_t>(number >> 63)


cdef inline int64_t unzigzag(uint64_t number) noexcept nogil:
    return <int64_t>((number >> 1) ^ (0 - (number & 1)))


cdef uint8_t* put_room(Writer* to, size_t size) noexcept nogil  # NULL: there was no memory
cdef void put_byte(Writer* to, uint8_t byte) noexcept nogil
cdef void put_bytes(Writer* to, const void* at, size_t size) noexcept nogil
cdef void put_varint(Writer* to, uint64_t number) noexcept nogil

cdef const uint8_t* get_room(Reader* source, size_t size) noexcept nogil  # NULL: not so many left
cdef uint8_t get_byte(Reader* source) noexcept nogil
cdef void get_bytes(Reader* source, void* to, size_t size) noexcept nogil
cdef uint64_t get_varint(Reader* source) noexcept nogil

# Numbers by places of their bytes; ``first``: _TIME or _VALUE. False: see the streams' ``failed``.
cdef bint put_planes(Writer* to, int first, const uint64_t* numbers, size_t n) noexcept nogil
cdef bint get_planes(Reader* source, int first, uint64_t* numbers, size_t n) noexcept nogil

# Numbers that do not decrease, of 0 .. _SEQUENCE_MAX. ``scratch`` has room for n.
cdef enum:
    _SEQUENCE_MAX = 18446744073708  # twice the milliseconds that int64 nanoseconds have

cdef bint put_sequence(
    Writer* to, const uint64_t* numbers, size_t n, uint64_t* scratch,
) noexcept nogil
cdef bint get_sequence(Reader* source, uint64_t* numbers, size_t n) noexcept nogil
cdef size_t sequence_bits(const uint64_t* numbers, size_t n) noexcept nogil  # what it would cost
