"""Parts of an extraction count what is theirs: cut texts, empty texts, tokens left out."""

from dataclasses import replace

import numpy as np
import pytest

from saekit import probes
from saekit.data.labelled import labelled_texts
from saekit.probes import encode_texts
from tests import tiny
from tests.planted_texts import planted
from tests.probes.test_extract import made_up_texts


@pytest.mark.parametrize("context_size", [8, 9, 40])
def test_a_subset_counts_its_own_texts(model, context_size):
    """It said "1,283 texts were cut" of 20 texts, and named the tokens that were left out of the whole."""

    texts = [*made_up_texts(60, seed=5), ""]
    data, sae = labelled_texts(texts, [i % 2 for i in range(61)]), tiny.topk_sae(32, 96)
    read = lambda data: probes.extract_features(model, sae, data, context_size=context_size, progress=False)  # noqa: E731
    whole = read(data)
    rows = np.array([0, *range(1, 61, 4)])
    for some in (rows, rows[:5], rows[rows > 10]):
        part = probes.subset(whole, some)
        again = read(part.data)
        assert part.empty == again.empty and part.truncated == again.truncated
        assert part.cut.tolist() == again.cut.tolist()
        assert next(iter(part.hooks.values())).excluded == next(iter(again.hooks.values())).excluded
        assert ("cut at" in repr(part)) == (part.truncated > 0)
        nested = probes.subset(part, np.arange(3))
        assert nested.truncated == read(nested.data).truncated
    assert probes.subset(whole, np.arange(61)).truncated == whole.truncated
    assert whole.truncated == sum(len(ids) > context_size - 1 for ids in encode_texts(model, texts, 10_000)[0])


def test_of_texts_that_fill_the_context_those_are_counted_that_were_cut():
    whole = planted(40)
    lengths = np.diff(whole.id_starts)
    full, others = np.flatnonzero(lengths == lengths.max())[:5], np.flatnonzero(lengths < lengths.max())
    whole = replace(whole, cut=np.isin(np.arange(40), full[:3]))
    assert probes.subset(whole, np.append(others[:4], full[1:])).truncated == 2
    assert "left out: ; 2 texts cut at 128 tokens" in repr(probes.subset(whole, np.append(others[:4], full[1:])))
    assert "cut at" not in repr(probes.subset(whole, np.append(others, full[3:])))


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
