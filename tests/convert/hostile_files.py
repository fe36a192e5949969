"""Files that nobody should trust, what convert makes of them, and the torch files that they are made from."""

from __future__ import annotations

import io
import os
from collections import OrderedDict

import pytest
import torch

from pggan_fast import convert


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def refused(data, tmp_path):
    """The message, once it is sure that it is one, of one line, and that nothing is left behind."""
    path = tmp_path / "in.pkl"
    path.write_bytes(data)
    with pytest.raises(convert.ConversionError) as caught:
        convert.read(path).networks()
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert len(text.splitlines()) == 1
    assert len(text) < 1100
    assert os.listdir(tmp_path) == ["in.pkl"]
    return text.removeprefix(f"{path}: ")


def torch_data(zipped=True, **more):
    file = io.BytesIO()
    state = OrderedDict(a=torch.arange(6.0).reshape(2, 3).t(), b=torch.ones(2, dtype=torch.bfloat16))
    torch.save({"netG": state, "n": 3, **more}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def torch_bytes(value, zipped=True):
    file = io.BytesIO()
    torch.save(value, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()
