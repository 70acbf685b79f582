"""Parts of an extraction count what is theirs: cut texts, empty texts, tokens left out."""

from dataclasses import replace

import numpy as np
import pytest

from saekit import probes
from saekit.data.labelled import labelled_texts
from saekit.probes import cut_words
from tests import tiny
from tests.planted_texts import planted
from tests.probes.test_extract import made_up_texts


@pytest.mark.parametrize("context_size", [8, 9, 40])
def test_a_subset_counts_its_own_texts(model, context_size):
    """It said "1,283 texts were cut" of 20 texts, and named the tokens that were left out of the whole."""

    texts = [*made_up_texts(60, seed=5), ""]
    data, sae = labelled_texts(texts, [i % 2 for i in range(61)]), tiny.topk_sae(32, 96)
    read = lambda data: probes.extract_features(model, sae, data, context_size=context_size, progress=False)  # noqa: E731
    whole, exact = read(data), 0
    rows = np.array([0, *range(1, 61, 4)])
    for some in (rows, rows[:5], rows[rows > 10]):
        part = probes.subset(whole, some)
        again = read(part.data)
        assert part.empty == again.empty
        assert next(iter(part.hooks.values())).excluded == next(iter(again.hooks.values())).excluded
        assert part.truncated <= again.truncated <= part.truncated + part.perhaps_truncated
        nested = probes.subset(part, np.arange(3))
        assert nested.truncated <= read(nested.data).truncated <= nested.truncated + nested.perhaps_truncated
        if not part.perhaps_truncated:
            exact += 1
            assert cut_words(part) == cut_words(again) and (cut_words(part) in repr(part))
    assert probes.subset(whole, np.arange(61)).truncated == whole.truncated
    assert exact or context_size < 40


def test_what_a_subset_cannot_know_is_a_range():
    """Five texts fill the context, three of them were cut: of two nobody knows, of four at least two were."""

    whole = planted(40)
    lengths = np.diff(whole.id_starts)
    full = np.flatnonzero(lengths == lengths.max())[:5]
    others = np.flatnonzero(lengths < lengths.max())
    whole = probes.subset(whole, np.concatenate([full, others]))
    full = np.flatnonzero(np.diff(whole.id_starts) == lengths.max())
    assert len(full) == 5
    whole = replace(whole, truncated=3)
    said = lambda rows: (lambda part: (part.truncated, part.perhaps_truncated))(probes.subset(whole, rows))  # noqa: E731
    few = np.setdiff1d(np.arange(len(whole)), full)[:4]
    assert said(np.append(few, full[:2])) == (0, 2) and said(np.append(few, full[:4])) == (2, 1)
    assert said(few) == (0, 0) and said(np.append(few, full)) == (3, 0)
    assert "left out: ; at most 2 texts cut at 128 tokens" in repr(probes.subset(whole, np.append(few, full[:2])))
    assert "2 to 3 texts cut" in repr(probes.subset(whole, np.append(few, full[:4])))
    assert "cut at" not in repr(probes.subset(whole, few))


def test_why_tokens_of_a_part_are_left_out_is_said_only_if_there_is_one_reason():
    whole = planted(20)
    hook = whole.sae().hook
    starts = hook.starts.copy()
    ids = np.append(whole.ids, [1, 1, 1]).astype(np.int32)  # three tokens of the last text do not count
    id_starts = np.append(whole.id_starts[:-1], len(ids))
    for massive, want in ((3, {"bos_or_padding": 2, "special": 0, "massive": 3}),
                          (1, {"bos_or_padding": 2, "special or massive": 3})):  # fmt: skip
        left_out = {"bos_or_padding": 20, "special": 3 - massive, "massive": massive}
        known = replace(hook, starts=starts, excluded=left_out)
        made = replace(whole, ids=ids, id_starts=id_starts, hooks={hook.name: known},
                       saes={"planted": replace(whole.sae(), hook=known)})  # fmt: skip
        assert probes.subset(made, np.array([0, 19])).sae().hook.excluded == want
        none = probes.subset(made, np.array([0, 1])).sae().hook.excluded
        assert none["bos_or_padding"] == 2 and sum(none.values()) == 2
        assert probes.subset(probes.subset(made, np.arange(10, 20)), np.array([0, 9])).sae().hook.excluded == want
