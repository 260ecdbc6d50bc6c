# cython: boundscheck=False, wraparound=False, cdivision=True
"""Values of one tag in the streams of a packed body: the cheapest form that gives every bit back.

Instruments give decimals: an integer and an exponent, of which neighbours differ little. What is no
decimal is written as the bits that changed since the value before. No form loses a bit: NaN with
its payload, -0.0 and infinities come back as they were.
"""

from libc.math cimport fabs
from libc.stdint cimport int64_t, uint32_t
from libc.string cimport memcpy, memset

from fastpath.streams cimport (
    _CALM,
    _HEAD,
    _VALUE,
    get_bytes,
    get_planes,
    get_room,
    get_varint,
    put_bytes,
    put_planes,
    put_room,
    put_varint,
    unzigzag,
    zigzag,
)

cdef enum:
    _EXPONENT_MAX = 9
    _EXPONENT32_MAX = 7
    _INTEGER32_MAX = 4194304  # 2**22: beyond it a float32 tells no decimals apart
    _TWO_MIN = 24  # values, from where a bit each is worth two whole values
    _EXCEPTION_PART = 16  # at most one run of exceptions in so many values

cdef int64_t _INTEGER_MAX = 1125899906842624  # 2**50: times ten it still is exact
cdef double[10] _POWERS
_POWERS[:] = [1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9]
# Added and taken away again it leaves an integer, of numbers below 2**51 (round half to even).
cdef double _ROUND = 6755399441055744.0


cdef inline uint64_t _bits(double value) noexcept nogil:
    cdef uint64_t bits
    memcpy(&bits, &value, 8)
    return bits


cdef inline uint32_t _bits32(float value) noexcept nogil:
    cdef uint32_t bits
    memcpy(&bits, &value, 4)
    return bits


# ---- choosing ------------------------------------------------------------------------------------


cdef inline bint _as_decimal(double value, double scale, int64_t* integer) noexcept nogil:
    cdef double scaled = value * scale, whole
    if not fabs(scaled) <= <double>_INTEGER_MAX:  # not a number as well
        return False
    whole = (scaled + _ROUND) - _ROUND
    integer[0] = <int64_t>whole
    return _bits(<double>integer[0] / scale) == _bits(value)


cdef inline bint _as_decimal32(double value, double scale, int64_t* integer) noexcept nogil:
    cdef double scaled = value * scale, whole
    if not fabs(scaled) <= <double>_INTEGER32_MAX:
        return False
    whole = (scaled + _ROUND) - _ROUND
    integer[0] = <int64_t>whole
    return _bits(<double><float>(<double>integer[0] / scale)) == _bits(value)


cdef inline bint _fits(double value, double scale, bint single, int64_t* integer) noexcept nogil:
    if single:
        return _as_decimal32(value, scale, integer)
    return _as_decimal(value, scale, integer)


cdef int _exponent(const double* values, size_t n, bint single, size_t most) noexcept nogil:
    """The smallest that all values but ``most`` runs of equal ones have; -1: there is none."""
    cdef int e = 0, f, top = _EXPONENT32_MAX if single else _EXPONENT_MAX
    cdef size_t i, runs = 0
    cdef int64_t integer = 0
    cdef uint64_t exception = 0
    cdef bint before = False
    for i in range(n):
        if before and _bits(values[i]) == exception:
            continue
        before = False
        if _fits(values[i], _POWERS[e], single, &integer):
            continue
        for f in range(e + 1, top + 1):
            if _fits(values[i], _POWERS[f], single, &integer):
                e = f
                break
        else:
            before = True
            exception = _bits(values[i])
            runs += 1
            if runs > most:
                return -1
    return e


cdef size_t _exceptions(const double* values, size_t n, double scale, bint single) noexcept nogil:
    """Runs of equal values that are no decimals of this scale."""
    cdef size_t i, runs = 0
    cdef int64_t integer = 0
    cdef bint before = False
    for i in range(n):
        if _fits(values[i], scale, single, &integer):
            before = False
        elif not before or _bits(values[i]) != _bits(values[i - 1]):
            before = True
            runs += 1
    return runs


cdef bint _decimal(Values* chosen, const double* values, size_t n, bint single) noexcept nogil:
    cdef size_t most = n // _EXCEPTION_PART
    cdef int e = _exponent(values, n, single, most)
    if e < 0:
        return False
    chosen.scale = _POWERS[e]
    chosen.exceptions = _exceptions(values, n, chosen.scale, single)
    if chosen.exceptions > most:
        return False
    chosen.form = <uint8_t>((_FORM_DECIMAL32 if single else _FORM_DECIMAL) + e)
    if chosen.exceptions:
        chosen.form += _FORM_EXCEPTIONS
    return True


cdef bint _two(Values* chosen, const double* values, size_t n) noexcept nogil:
    cdef uint64_t one = _bits(values[0]), other = one
    cdef size_t i
    for i in range(1, n):
        if _bits(values[i]) == one or _bits(values[i]) == other:
            continue
        if other != one:
            return False
        other = _bits(values[i])
    if other == one:
        return False
    memcpy(&chosen.other, &other, 8)
    chosen.form = _FORM_TWO
    return True


cdef Values choose_form(const double* values, size_t n) noexcept nogil:
    cdef Values chosen
    cdef size_t i
    memset(&chosen, 0, sizeof(chosen))
    if n >= _TWO_MIN and _two(&chosen, values, n):
        return chosen
    if _decimal(&chosen, values, n, False):
        return chosen
    chosen.form = _FORM_FLOAT32
    for i in range(n):
        if _bits(<double><float>values[i]) != _bits(values[i]):
            chosen.form = _FORM_FLOAT64
            return chosen
    _decimal(&chosen, values, n, True)
    return chosen


# ---- writing -------------------------------------------------------------------------------------


cdef void _put_exceptions(
    Writer* head, const Values* chosen, const double* values, size_t n, bint single,
) noexcept nogil:
    """How many runs; of each how far from the one before, how long, and its bits."""
    cdef size_t i = 0, end = 0, begin
    cdef int64_t integer = 0
    put_varint(head, chosen.exceptions)
    while i < n:
        if _fits(values[i], chosen.scale, single, &integer):
            i += 1
            continue
        begin = i
        while i < n and _bits(values[i]) == _bits(values[begin]):
            i += 1
        put_varint(head, begin - end)
        put_varint(head, i - begin)
        put_bytes(head, &values[begin], 8)
        end = i


cdef bint _put_decimals(
    Writer* to, const Values* chosen, const double* values, size_t n, uint64_t* scratch,
) noexcept nogil:
    """Differences of the integers; an exception repeats the integer before."""
    cdef bint single = (chosen.form & ~<int>_FORM_EXCEPTIONS) >= _FORM_DECIMAL32
    cdef int64_t before = 0, integer = 0
    cdef size_t i
    if chosen.exceptions:
        _put_exceptions(&to[_HEAD], chosen, values, n, single)
    for i in range(n):
        if not _fits(values[i], chosen.scale, single, &integer):
            integer = before
        scratch[i] = zigzag(integer - before)
        before = integer
    put_varint(&to[_HEAD], scratch[0])
    return n == 1 or put_planes(to, _VALUE, scratch + 1, n - 1)


cdef bint _put_changes(
    Writer* to, const double* values, size_t n, bint single, uint64_t* scratch,
) noexcept nogil:
    cdef uint64_t before = 0, bits
    cdef size_t i
    for i in range(n):
        bits = _bits32(<float>values[i]) if single else _bits(values[i])
        scratch[i] = bits ^ before
        before = bits
    put_bytes(&to[_HEAD], scratch, 4 if single else 8)
    return n == 1 or put_planes(to, _VALUE, scratch + 1, n - 1)


cdef bint _put_two(Writer* to, const Values* chosen, const double* values, size_t n) noexcept nogil:
    cdef uint64_t one = _bits(values[0])
    cdef uint8_t* room = put_room(&to[_CALM], (n + 7) // 8)
    cdef size_t i
    if room == NULL:
        return False
    put_bytes(&to[_HEAD], &values[0], 8)
    put_bytes(&to[_HEAD], &chosen.other, 8)
    memset(room, 0, (n + 7) // 8)
    for i in range(n):
        room[i >> 3] |= <uint8_t>((_bits(values[i]) != one) << (i & 7))
    return not to[_HEAD].failed


cdef bint put_values(
    Writer* to, const Values* chosen, const double* values, size_t n, uint64_t* scratch,
) noexcept nogil:
    if chosen.form == _FORM_TWO:
        return _put_two(to, chosen, values, n)
    if chosen.form == _FORM_FLOAT64 or chosen.form == _FORM_FLOAT32:
        return _put_changes(to, values, n, chosen.form == _FORM_FLOAT32, scratch)
    return _put_decimals(to, chosen, values, n, scratch)


# ---- reading -------------------------------------------------------------------------------------
# The numbers are read into the values' own places, and each becomes its value there.


cdef bint _get_exceptions(Reader* head, double* values, size_t n) noexcept nogil:
    cdef uint64_t runs = get_varint(head), gap, length, i
    cdef size_t at = 0
    cdef double value = 0.0
    if runs > n:
        head.failed = True
    while runs and not head.failed:
        runs -= 1
        gap = get_varint(head)
        length = get_varint(head)
        get_bytes(head, &value, 8)
        if gap > n - at or length > n - at - gap:
            head.failed = True
            break
        at += gap
        for i in range(length):
            values[at + i] = value
        at += length
    return not head.failed


cdef bint _get_decimals(
    Reader* source, double* values, size_t n, double scale, bint single, bint exceptions,
) noexcept nogil:
    cdef uint64_t first
    cdef Reader later = source[_HEAD]  # the exceptions stand first, and go over the rest
    cdef int64_t integer = 0, delta
    cdef int64_t most = <int64_t>_INTEGER32_MAX if single else _INTEGER_MAX
    cdef size_t i
    cdef double value
    if exceptions and not _get_exceptions(&source[_HEAD], values, n):
        return False
    first = get_varint(&source[_HEAD])
    memcpy(values, &first, 8)
    if n > 1 and not get_planes(source, _VALUE, <uint64_t*>(values + 1), n - 1):
        return False
    for i in range(n):
        delta = unzigzag(_bits(values[i]))
        if delta > 2 * most or delta < -2 * most:
            source[_HEAD].failed = True
            return False
        integer += delta
        if integer > most or integer < -most:
            source[_HEAD].failed = True
            return False
        value = <double>integer / scale
        values[i] = <double><float>value if single else value
    return not exceptions or _get_exceptions(&later, values, n)


cdef bint _get_changes(Reader* source, double* values, size_t n, bint single) noexcept nogil:
    cdef uint64_t bits = 0
    cdef uint32_t half
    cdef float value
    cdef size_t i
    get_bytes(&source[_HEAD], &bits, 4 if single else 8)
    memcpy(values, &bits, 8)
    bits = 0
    if n > 1 and not get_planes(source, _VALUE, <uint64_t*>(values + 1), n - 1):
        return False
    for i in range(n):
        bits ^= _bits(values[i])
        if single:
            half = <uint32_t>bits
            memcpy(&value, &half, 4)
            values[i] = <double>value
        else:
            memcpy(&values[i], &bits, 8)
    return True


cdef bint _get_two(Reader* source, double* values, size_t n) noexcept nogil:
    cdef double one = 0.0, other = 0.0
    cdef const uint8_t* room
    cdef size_t i
    get_bytes(&source[_HEAD], &one, 8)
    get_bytes(&source[_HEAD], &other, 8)
    room = get_room(&source[_CALM], (n + 7) // 8)
    if room == NULL:
        return False
    for i in range(n):
        values[i] = other if room[i >> 3] >> (i & 7) & 1 else one
    return True


cdef bint get_values(Reader* source, uint8_t form, double* values, size_t n) noexcept nogil:
    cdef bint exceptions = form & _FORM_EXCEPTIONS
    cdef bint single
    if form == _FORM_TWO:
        return _get_two(source, values, n)
    if form == _FORM_FLOAT32 or form == _FORM_FLOAT64:
        return _get_changes(source, values, n, form == _FORM_FLOAT32)
    form &= ~<uint8_t>_FORM_EXCEPTIONS
    single = form >= _FORM_DECIMAL32
    form -= _FORM_DECIMAL32 if single else _FORM_DECIMAL
    if form > (_EXPONENT32_MAX if single else _EXPONENT_MAX):
        source[_HEAD].failed = True
        return False
    return _get_decimals(source, values, n, _POWERS[form], single, exceptions)
