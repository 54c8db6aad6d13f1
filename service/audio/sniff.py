"""Which demuxer a file calls for, told from its first bytes: never from a name or a content type.

Knows nothing about how files are decoded. The formats here are the allow-list; a playlist, or
anything else that makes a demuxer open other files, is not on it.
"""

from __future__ import annotations

from service.errors import InvalidAudio

FORMATS = "WAV, W64, AIFF, FLAC, MP3, AAC, Ogg, Matroska, WebM, MP4, MOV, AMR, CAF"

_W64 = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb"
_MAGICS = (
    (0, b"fLaC", "flac"),
    (0, b"OggS", "ogg"),
    (0, b"\x1a\x45\xdf\xa3", "matroska"),
    (0, b"#!AMR", "amr"),
    (0, b"caff", "caf"),
    (0, _W64, "w64"),
    (8, b"WAVE", "wav"),
    (8, b"AIFF", "aiff"),
    (8, b"AIFC", "aiff"),
    (4, b"ftyp", "mov"),
    (4, b"moov", "mov"),
    (4, b"mdat", "mov"),
    (4, b"wide", "mov"),
    (4, b"free", "mov"),
    (4, b"skip", "mov"),
)
_CONTAINERS = {"wav": (b"RIFF", b"RIFX", b"RF64", b"BW64"), "aiff": (b"FORM",)}
_PLAYLISTS = (b"#EXTM3U", b"ffconcat", b"[playlist]", b"<?xml", b"<smil", b"<MPD", b"v=0", b"file ")
_MAX_TAGS = 8
_SCAN_BYTES = 1 << 16
_CHAIN = 3
"""So many MPEG frames must follow each other before bytes are taken for MP3 or AAC."""


def sniff(data: bytes) -> str:
    """Return ffmpeg's name of the demuxer for `data`.

    Raises:
        InvalidAudio: if this is not a format on the allow-list; says what it looks like.
    """
    if not data:
        raise InvalidAudio("The upload is empty: 0 bytes.")
    start = _after_id3(data)
    demuxer = _by_magic(data[start : start + 16]) or _mpeg_audio(data, start)
    if demuxer is None:
        raise InvalidAudio(
            f"The upload is not audio in a supported format ({FORMATS}): "
            f"{_looks_like(data)} ({len(data)} bytes)."
        )
    return demuxer


def _by_magic(head: bytes) -> str | None:
    for offset, magic, demuxer in _MAGICS:
        if head[offset : offset + len(magic)] == magic:
            outer = _CONTAINERS.get(demuxer)
            if outer is None or head[:4] in outer:
                return demuxer
    return None


def _after_id3(data: bytes) -> int:
    """Return where the file begins after its ID3v2 tags, which precede MP3, AAC and even FLAC."""
    start = 0
    for _ in range(_MAX_TAGS):
        head = data[start : start + 10]
        if head[:3] != b"ID3" or len(head) < 10:
            break
        size = 0
        for byte in head[6:10]:
            size = size << 7 | byte & 0x7F
        start += 10 + size
    return start


def _mpeg_audio(data: bytes, start: int) -> str | None:
    """Return "mp3" or "aac" where a chain of their frames begins soon after `start`."""
    end = min(len(data), start + _SCAN_BYTES)
    position = data.find(0xFF, start, end)
    while position >= 0:
        for demuxer, frame_bytes in (("aac", _adts_frame_bytes), ("mp3", _mpeg_frame_bytes)):
            at, n_frames = position, 0
            while n_frames < _CHAIN and at < len(data) and (size := frame_bytes(data, at)):
                at, n_frames = at + size, n_frames + 1
            if n_frames == _CHAIN or (n_frames and position == start and at >= len(data)):
                return demuxer
        position = data.find(0xFF, position + 1, end)
    return None


def _adts_frame_bytes(data: bytes, at: int) -> int:
    """Return the length of the ADTS frame at `at`, 0 if there is none."""
    head = data[at : at + 7]
    if len(head) < 7 or head[0] != 0xFF or head[1] & 0xF6 != 0xF0 or head[2] >> 2 & 0xF > 12:
        return 0
    size = (head[3] & 0x3) << 11 | head[4] << 3 | head[5] >> 5
    return size if size > 7 else 0


_KBPS_V1 = (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320)
_KBPS_V2 = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)
_RATES = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


def _mpeg_frame_bytes(data: bytes, at: int) -> int:
    """Return the length of the MPEG-1/2/2.5 layer III frame at `at`, 0 if there is none."""
    head = data[at : at + 4]
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE6 != 0xE2:
        return 0
    version, bitrate, rate = head[1] >> 3 & 3, head[2] >> 4, head[2] >> 2 & 3
    if version == 1 or bitrate in (0, 15) or rate == 3:
        return 0
    kbps = (_KBPS_V1 if version == 3 else _KBPS_V2)[bitrate]
    samples = 1152 if version == 3 else 576
    return samples * kbps * 125 // _RATES[version][rate] + (head[2] >> 1 & 1)


def _looks_like(data: bytes) -> str:
    head = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n")
    if head.startswith(_PLAYLISTS):
        return "it looks like a playlist or a description of other files"
    try:
        data[:512].decode("utf-8", errors="strict")
    except UnicodeDecodeError as error:
        if error.start < 500:
            return f"it begins with the bytes {data[:8].hex(' ')}"
    return "it looks like text" if b"\0" not in data[:512] else "it begins with zero bytes"
