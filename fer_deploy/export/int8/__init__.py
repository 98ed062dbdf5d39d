"""int8 files: integer arithmetic, where it loses little accuracy and is measurably faster.

`ranges` measures activations, `quantise` rounds, `search` chooses what to round, `exact` and `race` check that this
processor computes the file exactly and faster than fp32. `tune` optionally trains the weights for rounding first.
"""
