"""Values of one tag in the streams of a packed body: the cheapest form that gives every bit back."""

from libc.stdint cimport uint8_t, uint64_t

from fastpath.streams cimport Reader, Writer

# Forms. A form is a number below 64 that stands in the head; 0 is none.
cdef enum:
    _FORM_NONE = 0  # the tag has no sample
    _FORM_DECIMAL = 1  # + e: integers / 10**e, e 0 .. 9
    _FORM_DECIMAL32 = 11  # + e: the float32 nearest to integers / 10**e, e 0 .. 7
    _FORM_FLOAT32 = 19
    _FORM_FLOAT64 = 20
    _FORM_TWO = 21  # two values, a bit each
    _FORM_EXCEPTIONS = 32  # added to a decimal form: some values are not of it


cdef struct Values:  # how the values of a tag will be written
    uint8_t form
    double scale  # 10**e
    size_t exceptions  # runs of them
    double other  # of _FORM_TWO


cdef Values choose_form(const double* values, size_t n) noexcept nogil
# ``scratch`` has room for n. The form itself is the caller's to write and to read.
cdef bint put_values(
    Writer* to, const Values* chosen, const double* values, size_t n, uint64_t* scratch,
) noexcept nogil
cdef bint get_values(Reader* source, uint8_t form, double* values, size_t n) noexcept nogil
