"""Sampling: which clauses are kept, by pointwise mutual information."""

from __future__ import annotations

import torch

from banatie.enhancement import sampling


def test_the_most_specific_clause_comes_first_and_unspecific_ones_are_dropped() -> None:
    def nats(*values: float) -> torch.Tensor:
        return torch.tensor(values)

    here = [nats(-1.0, -1.0), nats(-2.0), nats(-1.0)]
    anywhere = [nats(-3.5, -3.5), nats(-9.0), nats(-1.5)]
    assert sampling.rank_by_pmi(["walls", "roof", "colours"], here, anywhere) == ["roof", "walls"]
