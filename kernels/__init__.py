"""Triton kernels and their launchers, imported as `pggan_fast.kernels`. This version contains none yet."""
