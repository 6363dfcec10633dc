"""What a file is that holds no text, from its first bytes."""

_BEGINNINGS = (
    (b"\x1f\x8b", "gzip"),
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\x1f\x9d", "compress (.Z)"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"LZIP", "lzip"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"Rar!", "a RAR archive"),
    (b"PK\x03\x04", "a zip archive (or a document of an office program)"),
    (b"%PDF-", "a PDF"),
    (b"\x89PNG", "an image (PNG)"),
    (b"\xff\xd8\xff", "an image (JPEG)"),
    (b"GIF8", "an image (GIF)"),
    (b"II*\x00", "an image (TIFF)"),
    (b"MM\x00*", "an image (TIFF)"),
    (b"\x00\x00\x01\x00", "an image (ICO)"),
    (b"PAR1", "a parquet table"),
    (b"SQLite format 3", "an SQLite database"),
    (b"\x7fELF", "a program (ELF)"),
    (b"MZ", "a program (Windows)"),
    (b"\xca\xfe\xba\xbe", "a Java class or a program (macOS)"),
    (b"\xcf\xfa\xed\xfe", "a program (macOS)"),
    (b"\x00asm", "a WebAssembly module"),
    (b"\xd0\xcf\x11\xe0", "a document of an old office program"),
    (b"ID3", "audio (MP3)"),
    (b"fLaC", "audio (FLAC)"),
    (b"OggS", "audio or video (Ogg)"),
    (b"\x1aE\xdf\xa3", "video (Matroska)"),
    (b"wOFF", "a font"),
    (b"wOF2", "a font"),
    (b"\x00\x01\x00\x00\x00", "a font"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\xff\xfe\x00\x00", "UTF-32"),
    (b"\xff\xfe", "UTF-16"),
    (b"\xfe\xff", "UTF-16"),
    (b"\x80\x02", "a Python pickle"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x80\x05", "a Python pickle"),
)


def kind_of(content: bytes) -> str | None:
    """What the bytes are; ``None`` if they may be text in some encoding."""
    for beginning, kind in _BEGINNINGS:
        if content.startswith(beginning):
            return kind
    if content.startswith(b"RIFF"):
        return {b"WEBP": "an image (WebP)", b"WAVE": "audio (WAV)"}.get(content[8:12], "audio or video (RIFF)")
    if content[4:8] == b"ftyp":
        return "video (MP4)"
    if content[257:262] == b"ustar":
        return "a tar archive"
    return "binary data" if b"\x00" in content[:4096] else None


def unread_kind(content: bytes) -> str | None:
    """What bytes are that are no UTF-8, or have zero bytes among them; ``None`` if they are text or not known."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return kind_of(content)
    return kind_of(content) if b"\x00" in content else None
