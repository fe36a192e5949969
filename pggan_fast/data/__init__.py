"""Image data: the embedded faces, and the tool that draws them."""

from pggan_fast.data.embedded import faces, faces_attribution

__all__ = ["faces", "faces_attribution"]
