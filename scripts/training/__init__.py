"""The recipe of the embedded painter: scenes, captions, models, training and judging.

It knows nothing of the service; `scripts/train_embedded` and `scripts/eval_embedded` drive it.
"""
