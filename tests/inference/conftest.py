"""One thread for torch: two that share a core stall each other."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
