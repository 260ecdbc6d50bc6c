# cython: boundscheck=False, wraparound=False, cdivision=True
"""The byte streams that a packed body consists of, and how numbers stand in them.

What is read may be anything: nothing here reads beyond a stream, loops without a bound, or
overflows a signed number.
"""

from libc.stdlib cimport realloc
from libc.string cimport memcpy, memset

cdef extern from *:
    int __builtin_clzll(unsigned long long number) nogil

cdef enum:
    _ROOM_BYTES = 256  # of a stream at first
    _PERIOD_DELTAS = 31  # whose median is a sequence's period
    _TRACKING = 16  # one part in so many of an error moves the grid


# ---- bytes and varints ---------------------------------------------------------------------------


cdef uint8_t* put_room(Writer* to, size_t size) noexcept nogil:
    cdef size_t capacity = to.capacity if to.capacity else _ROOM_BYTES
    cdef uint8_t* grown
    if to.failed:
        return NULL
    if size > to.capacity - to.length:
        while capacity - to.length < size:
            capacity *= 2
        grown = <uint8_t*>realloc(to.at, capacity)
        if grown == NULL:
            to.failed = True
            return NULL
        to.at = grown
        to.capacity = capacity
    to.length += size
    return to.at + to.length - size


cdef void put_byte(Writer* to, uint8_t byte) noexcept nogil:
    cdef uint8_t* at = put_room(to, 1)
    if at != NULL:
        at[0] = byte


cdef void put_bytes(Writer* to, const void* at, size_t size) noexcept nogil:
    cdef uint8_t* room = put_room(to, size)
    if room != NULL:
        memcpy(room, at, size)


cdef void put_varint(Writer* to, uint64_t number) noexcept nogil:
    while number >= 0x80:
        put_byte(to, <uint8_t>(number | 0x80))
        number >>= 7
    put_byte(to, <uint8_t>number)


cdef const uint8_t* get_room(Reader* source, size_t size) noexcept nogil:
    cdef const uint8_t* at = source.at
    if source.failed or size > source.left:
        source.failed = True
        return NULL
    source.at += size
    source.left -= size
    return at


cdef uint8_t get_byte(Reader* source) noexcept nogil:
    cdef const uint8_t* at = get_room(source, 1)
    return 0 if at == NULL else at[0]


cdef void get_bytes(Reader* source, void* to, size_t size) noexcept nogil:
    cdef const uint8_t* at = get_room(source, size)
    if at != NULL:
        memcpy(to, at, size)


cdef uint64_t get_varint(Reader* source) noexcept nogil:
    cdef uint64_t number = 0
    cdef int shift = 0
    cdef uint8_t byte = 0x80
    while byte & 0x80:
        byte = get_byte(source)
        if shift > 63 or (shift == 63 and byte > 1):
            source.failed = True
            return 0
        number |= <uint64_t>(byte & 0x7F) << shift
        shift += 7
    return number


# ---- planes --------------------------------------------------------------------------------------


cdef inline bint _is_calm(const uint64_t* numbers, size_t n, int shift) noexcept nogil:
    """Three of four bytes of this plane repeat the one before."""
    cdef size_t i, changes = 0
    for i in range(1, n):
        changes += ((numbers[i] ^ numbers[i - 1]) >> shift & 0xFF) != 0
    return 4 * changes <= n


cdef inline int _stream(int first, int plane) noexcept nogil:
    return _TIME_HIGH if first == _TIME and plane else first + plane


cdef bint put_planes(Writer* to, int first, const uint64_t* numbers, size_t n) noexcept nogil:
    """In the head how many bytes the widest has, and which planes are noise."""
    cdef uint64_t every = 0
    cdef size_t i
    cdef int plane, width = 0
    cdef uint8_t noise = 0
    cdef uint8_t* room
    for i in range(n):
        every |= numbers[i]
    while width < 8 and every >> (8 * width):
        width += 1
    put_byte(&to[_HEAD], width)
    if width == 0:
        return not to[_HEAD].failed
    for plane in range(width):
        if not _is_calm(numbers, n, 8 * plane):
            noise |= 1 << plane
    put_byte(&to[_HEAD], noise)
    for plane in range(width):
        room = put_room(&to[_stream(first, plane) if noise >> plane & 1 else _CALM], n)
        if room == NULL:
            return False
        for i in range(n):
            room[i] = <uint8_t>(numbers[i] >> (8 * plane))
    return not to[_HEAD].failed


cdef bint get_planes(Reader* source, int first, uint64_t* numbers, size_t n) noexcept nogil:
    cdef int plane, width = get_byte(&source[_HEAD])
    cdef uint8_t noise = 0
    cdef const uint8_t* room
    cdef size_t i
    memset(numbers, 0, n * sizeof(uint64_t))
    if width:
        noise = get_byte(&source[_HEAD])
    if width > 8 or noise >> width or source[_HEAD].failed:
        source[_HEAD].failed = True
        return False
    for plane in range(width):
        room = get_room(&source[_stream(first, plane) if noise >> plane & 1 else _CALM], n)
        if room == NULL:
            return False
        for i in range(n):
            numbers[i] |= <uint64_t>room[i] << (8 * plane)
    return True


# ---- sequences -----------------------------------------------------------------------------------
# A grid of one period runs along; what is written is how far each number is from it. The grid
# follows slowly, so that noise costs what it is and a clock that drifts costs nothing, and anew
# from where a number is more than half a period off.


cdef struct Grid:
    int64_t expected  # in sixteenths
    int64_t period


cdef inline int64_t _next(Grid* grid) noexcept nogil:
    grid.expected += grid.period * _TRACKING
    return (grid.expected + _TRACKING // 2) // _TRACKING


cdef inline void _follow(Grid* grid, int64_t number, int64_t off) noexcept nogil:
    if off > grid.period // 2 or off < -(grid.period // 2):
        grid.expected = number * _TRACKING
    else:
        grid.expected += off


cdef uint64_t _unit(const uint64_t* numbers, size_t n) noexcept nogil:
    """The greatest step of which all differences are multiples, at least 1."""
    cdef uint64_t unit = 0, a, b, rest
    cdef size_t i
    for i in range(1, n):
        a = numbers[i] - numbers[i - 1]
        b = unit
        while b:
            rest = a % b
            a = b
            b = rest
        unit = a
        if unit == 1:
            break
    return unit if unit else 1


cdef uint64_t _period(const uint64_t* numbers, size_t n, uint64_t unit) noexcept nogil:
    """The median of the first differences, in units."""
    cdef uint64_t[_PERIOD_DELTAS] sorted_
    cdef uint64_t delta
    cdef size_t i, k, count = min(n - 1, <size_t>_PERIOD_DELTAS)
    for i in range(count):
        delta = (numbers[i + 1] - numbers[i]) // unit
        k = i
        while k and sorted_[k - 1] > delta:
            sorted_[k] = sorted_[k - 1]
            k -= 1
        sorted_[k] = delta
    return sorted_[count // 2]


cdef bint put_sequence(
    Writer* to, const uint64_t* numbers, size_t n, uint64_t* scratch,
) noexcept nogil:
    """In the head the first, the unit and the period; the rest as noise of the times."""
    cdef uint64_t unit
    cdef int64_t number, off
    cdef size_t i
    cdef Grid grid
    put_varint(&to[_HEAD], numbers[0])
    if n == 1:
        return not to[_HEAD].failed
    unit = _unit(numbers, n)
    grid.expected = 0
    grid.period = _period(numbers, n, unit)
    put_varint(&to[_HEAD], unit)
    put_varint(&to[_HEAD], grid.period)
    for i in range(1, n):
        number = (numbers[i] - numbers[0]) // unit
        off = number - _next(&grid)
        scratch[i - 1] = zigzag(off)
        _follow(&grid, number, off)
    return put_planes(to, _TIME, scratch, n - 1)


cdef bint get_sequence(Reader* source, uint64_t* numbers, size_t n) noexcept nogil:
    cdef uint64_t first = get_varint(&source[_HEAD]), unit, period
    cdef int64_t number, off, before = 0, last
    cdef size_t i
    cdef Grid grid
    if source[_HEAD].failed or first > <uint64_t>_SEQUENCE_MAX:
        source[_HEAD].failed = True
        return False
    numbers[0] = first
    if n == 1:
        return True
    unit = get_varint(&source[_HEAD])
    period = get_varint(&source[_HEAD])
    if unit == 0 or unit > <uint64_t>_SEQUENCE_MAX or period > <uint64_t>_SEQUENCE_MAX:
        source[_HEAD].failed = True
        return False
    if not get_planes(source, _TIME, numbers + 1, n - 1):
        return False
    last = <int64_t>((<uint64_t>_SEQUENCE_MAX - first) // unit)
    grid.expected = 0
    grid.period = <int64_t>period
    for i in range(1, n):
        number = _next(&grid)
        off = unzigzag(numbers[i])
        # A step at a time: no sum can leave the range of an int64.
        if off > last or off < -last or number + off > last or number + off < before:
            source[_HEAD].failed = True
            return False
        number += off
        _follow(&grid, number, off)
        before = number
        numbers[i] = first + <uint64_t>number * unit
    return True


cdef size_t sequence_bits(const uint64_t* numbers, size_t n) noexcept nogil:
    """About what :func:`put_sequence` comes to once it is deflated."""
    cdef uint64_t unit, rest
    cdef int64_t number, off
    cdef size_t i, bits = 32
    cdef Grid grid
    if n < 2:
        return bits
    unit = _unit(numbers, n)
    grid.expected = 0
    grid.period = _period(numbers, n, unit)
    for i in range(1, n):
        number = (numbers[i] - numbers[0]) // unit
        off = number - _next(&grid)
        _follow(&grid, number, off)
        rest = zigzag(off)
        if rest:
            bits += 64 - __builtin_clzll(rest)
    return bits
