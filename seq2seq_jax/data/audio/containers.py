"""How long an audio file is by its own header: libsndfile reads what was cut as far as it goes and says nothing."""

STREAMED_BYTES = 2**31 - 2**16
"""Lengths from here on are what writers of streams put down who do not know the length yet, as they do with 0."""


def missing_bytes(data: bytes) -> int:
    """Bytes that the file should have and has not, by its container; 0 where that has no length, or is not known.

    Known are AIFF, AU, RF64, W64 and NIST's SPHERE; of WAV files `files` reads the header itself, and of MP3 files
    libsndfile; of OGG see `last_page_is_whole`.
    """
    said = _said(data)
    return 0 if said is None else max(0, said - len(data))


def _said(data: bytes) -> int | None:
    """Bytes of the whole file; None = not known."""
    if data.startswith(b"FORM"):
        return _known(8, int.from_bytes(data[4:8], "big"))
    if data.startswith(b".snd"):
        return _known(int.from_bytes(data[4:8], "big"), int.from_bytes(data[8:12], "big"))
    if data.startswith(b"RF64") and data[12:16] == b"ds64":
        return 8 + int.from_bytes(data[20:28], "little")
    if data.startswith(b"riff\x2e\x91\xcf\x11"):
        return int.from_bytes(data[16:24], "little")
    if data.startswith(b"NIST_1A\n"):
        return _sphere(data)
    return None


def _known(header: int, size: int) -> int | None:
    return header + size if 0 < size < STREAMED_BYTES else None


def _sphere(data: bytes) -> int | None:
    """SPHERE: lines of name, type and value, behind the number of bytes that they take."""
    try:
        header = int(data[8:16])
        lines = (line.split(None, 2) for line in data[16:header].decode("ascii").splitlines())
        fields = {line[0]: line[2] for line in lines if len(line) == 3}
        if "," in fields.get("sample_coding", ""):
            return None  # Compressed: its length is not that of its samples.
        return header + int(fields["sample_count"]) * int(fields["channel_count"]) * int(fields["sample_n_bytes"])
    except (ValueError, KeyError):
        return None


def last_page_is_whole(data: bytes) -> bool:
    """Of an OGG file: it has pages, each with the lengths of its parts, of at most 255 bytes."""
    place = 0
    while data.startswith(b"OggS", place):
        if place + 27 > len(data):
            return False
        parts = data[place + 27 : place + 27 + data[place + 26]]
        if len(parts) < data[place + 26]:
            return False
        place += 27 + len(parts) + sum(parts)
    return place <= len(data)
