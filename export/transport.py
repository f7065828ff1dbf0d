"""A file packed for the way to a device: an .xz stream of it, restored byte for byte.

.xz because Python, every Linux and XZ Embedded (microcontrollers) open it: one stream, one filter (LZMA2), CRC-32, and a
dictionary no larger than the file, which is the memory a device needs. Measured on nine palette files of 16 to 48 KB: from 2.1 %
smaller than brotli's to 0.6 % larger, 1.3 to 4.8 % smaller than zstandard's. Coding every index by its frequency alone
would save 1.2 to 2.2 % more; tests hold it under the 5 % from where a container of our own would be worth having.
"""

from __future__ import annotations

import lzma

from ..errors import ExportError, FormatError

SUFFIX = ".xz"
# a packed file may become so many times as large: what a stranger's file can make of memory
MAX_RATIO = 256
# LZMA's bits of literal context, literal position and position: packed indices have no bytes before them to be guessed
# by, tables of a flatbuffer repeat every four bytes
SETTINGS = ((0, 0, 2), (0, 2, 2), (0, 0, 0), (3, 0, 2))
# larger files take the first: trying all takes four times as long
TRIED_UP_TO = 1 << 21
MIN_DICTIONARY, MAX_DICTIONARY = 1 << 12, 1 << 26
# of the decoder beside its dictionary, by far
DECODER_MEMORY = 1 << 22


def pack(data: bytes) -> bytes:
    """The .xz stream of a file's bytes. Raises ExportError if `unpack` would refuse it."""
    settings = SETTINGS if len(data) <= TRIED_UP_TO else SETTINGS[:1]
    packed = min((_compressed(data, *setting) for setting in settings), key=len)
    if len(data) > MAX_RATIO * len(packed):
        raise ExportError(
            f"a packed file may be unpacked to {MAX_RATIO} times its size, got {len(data)} bytes that pack into "
            f"{len(packed)}; they are all but one value, look into the model"
        )
    return packed


def unpack(data: bytes) -> bytes:
    """What `pack` was given; `data` may be any one .xz stream with a check.

    Raises FormatError for anything else, damaged, cut short, or more than MAX_RATIO times as large unpacked.
    """
    limit = MAX_RATIO * len(data)
    decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, MAX_DICTIONARY + DECODER_MEMORY)
    try:
        found = decoder.decompress(data, limit + 1)
    except lzma.LZMAError as error:
        raise FormatError(
            f"a packed file must be an undamaged {SUFFIX} stream, got {len(data)} bytes: {error}"
        ) from None
    if len(found) > limit:
        raise FormatError(
            f"a packed file must unpack within {MAX_RATIO} times its size, got more; it is damaged"
        )
    if not decoder.eof or decoder.unused_data:
        told = (
            f"{len(decoder.unused_data)} bytes behind its end" if decoder.eof else "one cut short"
        )
        raise FormatError(f"a packed file must be one whole {SUFFIX} stream, got {told}")
    if decoder.check == lzma.CHECK_NONE:
        raise FormatError("a packed file must hold a check of its content, got none; pack it anew")
    return found


def _compressed(data: bytes, context: int, position: int, alignment: int) -> bytes:
    size = min(max(MIN_DICTIONARY, 1 << max(0, len(data) - 1).bit_length()), MAX_DICTIONARY)
    chain = [
        {
            "id": lzma.FILTER_LZMA2,
            "preset": 9 | lzma.PRESET_EXTREME,
            "dict_size": size,
            "lc": context,
            "lp": position,
            "pb": alignment,
        }
    ]
    return lzma.compress(data, lzma.FORMAT_XZ, lzma.CHECK_CRC32, filters=chain)
