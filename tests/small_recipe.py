"""A recipe whose runs take a second and meet every kind of randomness."""

SMALL = """
name = "small"
title = "two stages, every kind of randomness"
network = { name = "plain", options = { widths = [4, 8], depths = [1, 2], stem_stride = 2, dropout = 0.2 } }
augmentation = { flip = 0.5, crop = 2, rotation = 10.0, cutout = 0.5 }

[[stage]]
epochs = 4
batch_size = 32
clip = 1.0
ema = 0.9
optimiser = { lr = 4e-3, weight_decay = 0.05 }
schedule = { name = "one-cycle", cycle_momentum = true }
loss = { smoothing = 0.1 }
mixing = { mixup_alpha = 0.4, cutmix_alpha = 1.0, probability = 0.5 }

[[stage]]
epochs = 3
batch_size = 16
optimiser = { lr = 1e-3 }
schedule = { name = "plateau", patience = 0 }
loss = { name = "focal" }
"""
