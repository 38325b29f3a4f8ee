"""The token loop: cached prefixes and log-probabilities equal those of one pass over all tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from banatie.enhancement.enhancer import Enhancer
from banatie.enhancement.guided import few_shot_prefix
from banatie.enhancement.templates import load_templates
from banatie.records import TEMPLATE_NAMES
from tests.support.word_llama import enhance, load


def never_stop() -> None:
    """Go on."""


def test_a_cached_prefix_gives_the_logits_of_reading_everything(untrained: Enhancer) -> None:
    text = few_shot_prefix(load_templates()["comic"])
    decoder = untrained._decoder
    rest = decoder.encode("A comic book panel of a cat,")
    for _ in range(2):
        with torch.inference_mode():
            prefix = decoder.prefix(text, never_stop)
            kept = decoder.forward([rest], prefix.copy_cache())
            whole = untrained._model(torch.tensor([[*prefix.ids, *rest]])).logits[:, -1]
        torch.testing.assert_close(kept, whole, atol=1e-4, rtol=1e-4)
    assert prefix.cache.get_seq_length() == len(prefix.ids)


def test_log_probs_are_those_of_reading_each_row_alone(untrained: Enhancer) -> None:
    decoder = untrained._decoder
    rows = [decoder.encode(t) for t in (" wet slate roof", " lit by a lantern", " roof")]
    with torch.inference_mode():
        prefix = decoder.prefix("A detailed picture", never_stop)
        context = decoder.encode(" of a house,")
        texts = [" wet slate roof", " lit by a lantern", " roof"]
        found = decoder.log_probs(prefix, context, [text.strip() for text in texts])
        for row, log_probs in zip(rows, found, strict=True):
            ids = torch.tensor([[*prefix.ids, *context, *row]])
            whole = untrained._model(ids).logits[0].log_softmax(-1)
            expected = [float(whole[place - len(row) - 1, t]) for place, t in enumerate(row)]
            assert log_probs.tolist() == pytest.approx(expected, abs=1e-3)


def test_the_prefix_cache_stays_small(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    enhancer = load(folder)
    enhance(enhancer, "a cat", "comic")
    [only] = enhancer._decoder._prefixes.values()
    monkeypatch.setattr("banatie.enhancement.decoding.MAX_PREFIX_CACHE_BYTES", only.nbytes * 2.5)
    for template in TEMPLATE_NAMES:
        enhance(enhancer, "a cat", template)
    assert 1 <= len(enhancer._decoder._prefixes) < 4
