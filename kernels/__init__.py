"""Triton kernels and their launchers, imported as `pggan_fast.kernels`; they know tensors, not autograd or dispatch.

Each file holds the kernels of one op and, under the same name, the launcher that takes dense tensors and outputs that
its caller has allocated (pggan_fast/backends/triton). TRITON_INTERPRET=1, read at import, runs them on CPU tensors.
"""
