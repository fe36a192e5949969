"""Float64 numpy oracle of every op and of the whole networks, written from the formulas of the PGGAN paper's code.

Nothing in ops.py and models.py calls torch or the package under test. Convolutions are explicit sums over taps, so that
a reader can check each line against the formula. The fused official forms (through the 4x4 kernel S(w)) are a second,
independent way to get the resampling convolutions; test_oracle.py holds the two together.
"""
