"""How the chunks of every zarr array that we write are stored."""

from __future__ import annotations

from zarr.codecs import Crc32cCodec, ZstdCodec

# zarr's own compression, and a checksum of each chunk: a flipped bit on a disk is an error, and not another voxel.
CODECS = (ZstdCodec(level=0), Crc32cCodec())
