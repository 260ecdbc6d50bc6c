"""Secrets of Standard Webhooks as a credential has them: ``whsec_`` and base64, one or several."""

import base64
import binascii
from typing import Final

PREFIX: Final = "whsec_"
BYTES_MIN: Final = 16  # of a key; the standard wants 24 to 64
SECRETS_MAX: Final = 4  # two while one is exchanged for another
EXPECTED: Final = f'"{PREFIX}" and the base64 of {BYTES_MIN} bytes or more'


def keys_of(text: str) -> tuple[bytes, ...]:
    """The keys of ``whsec_…`` secrets, one or several with blanks or line ends between them.

    Raises ValueError, whose text has nothing of the secrets.
    """
    words = text.split()
    if not 1 <= len(words) <= SECRETS_MAX:
        msg = f"found {len(words)} secrets, expected one to {SECRETS_MAX}"
        raise ValueError(msg)
    return tuple(_key(word, number) for number, word in enumerate(words, 1))


def _key(word: str, number: int) -> bytes:
    bare = word.removeprefix(PREFIX)
    try:
        key = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if bare == word or len(key) < BYTES_MIN:
        msg = f"secret {number} is none, expected {EXPECTED}"
        raise ValueError(msg)
    return key
