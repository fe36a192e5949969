"""The choices of kernels made anew, as in another process."""

from __future__ import annotations

from pggan_fast.backends import registry, selfcheck, tables


def forget_choices() -> None:
    for forget in (tables.forget, registry.forget, selfcheck.forget):
        forget()
