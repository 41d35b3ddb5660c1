# Copyright: the Mayfly authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A guest's screen as QEMU gives it, a portable pixmap, to PNG. Pure."""

from __future__ import annotations

import re
import struct
import zlib

_PNG = b"\x89PNG\r\n\x1a\n"
_PIXMAP = re.compile(rb"P6\s+(?:#[^\n]*\n\s*)*(\d{1,5})\s+(\d{1,5})\s+255\s")


def to_png(image: bytes) -> bytes:
    """Return the image as PNG; raise ValueError when it is neither that nor a pixmap."""
    if image.startswith(_PNG):  # as later QEMUs can
        return image
    match = _PIXMAP.match(image)
    if match is None:
        raise ValueError("the screen came in an unknown format")
    width, height = int(match[1]), int(match[2])
    row = width * 3
    pixels = image[match.end() :]
    if not width or not height or len(pixels) < row * height:
        raise ValueError(f"the screen came with {len(pixels)} bytes instead of {row * height}")
    rows = b"".join(b"\0" + pixels[at * row : (at + 1) * row] for at in range(height))
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return _PNG + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
