"""Published progressive GANs, in structure, names and numerics: what people have, to compare with and to fuse.

Each module is one family: `networks(depth, widths, latent)` makes a generator and a discriminator, `generate(model, z,
depth, alpha)` and `score(model, x, depth, alpha)` call them; depth 0 is 4x4, alpha 1 is only the new level.
"""
