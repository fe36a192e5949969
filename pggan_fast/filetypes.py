"""What a file is, by its first bytes: for messages about files that are not what was expected."""

from __future__ import annotations

from pggan_fast.errors import line

HEAD = 4096  # bytes that tell
SAFETENSORS = "a safetensors file"
TORCH = "a file of torch.save"
GRID = "grid.png"  # beside the images of `pggan-fast generate`, of all of them
_ZIP = b"PK\x03\x04"
_OLD_TORCH = b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # the magic number of torch.save before 1.6, as a pickle has it
_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "a PNG image",
    b"\xff\xd8\xff": "a JPEG image",
    b"\x89HDF\r\n\x1a\n": "an HDF5 file",
    b"\x1f\x8b": "a gzip file",
    b"%PDF": "a PDF file",
    b"\x93NUMPY": "a numpy array (.npy)",
    _ZIP: "a ZIP file",
    b"PK\x05\x06": "an empty ZIP file",
}


def kind(head: bytes) -> str:
    """A few words on the file that begins with these bytes."""
    if not head:
        return "an empty file"
    if head[:4] == _ZIP and b"/data.pkl" in head[:512]:  # its first member
        return TORCH
    for magic, what in _MAGIC.items():
        if head.startswith(magic):
            return what
    if head[8:9] == b"{":  # after the length of its header
        return SAFETENSORS
    if head[:1] == b"\x80":
        return f"{TORCH} (an old one)" if head[2:].startswith(_OLD_TORCH) else "a pickle"
    if head[257:262] == b"ustar":
        return "a tar file"
    if is_text(head):
        return f"a text file that begins {line(head[:200].decode(errors='replace').split(chr(10))[0], 40)!r}"
    return "a file of no known kind"


def is_text(head: bytes) -> bool:
    """Whether these bytes are lines of text; the last character may be cut off."""
    try:
        text = head.decode().lstrip("\ufeff")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return False
        text = head[: error.start].decode()
    return all(c.isprintable() or c in "\t\r\n\f" for c in text)
