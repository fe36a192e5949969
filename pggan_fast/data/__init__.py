"""Image data: the embedded faces and the tool that draws them, sets of images, and the loader of a training."""

from pggan_fast.data.dataset import Dataset, open_dataset
from pggan_fast.data.embedded import faces, faces_attribution
from pggan_fast.data.errors import DataError
from pggan_fast.data.loader import Loader
from pggan_fast.data.pyramid import pyramid

__all__ = ["DataError", "Dataset", "Loader", "faces", "faces_attribution", "open_dataset", "pyramid"]
