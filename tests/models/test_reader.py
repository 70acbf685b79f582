"""The reader: what it reads in pieces it reads as one pass would, hooks know where they are, and it can be stopped."""

from contextlib import contextmanager

import pytest
import torch

from saekit.errors import Stopped
from saekit.models import CachedReader, encode_text, forward, hooked, stopping

HOOK = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def ids(model):
    return encode_text(model, "The cat sat on the mat. A dog, 3 birds and the cafe owner watched the film in Paris")


@torch.no_grad()
def test_what_is_read_in_pieces_has_the_logits_of_one_pass(model, ids):
    expected = forward(model, ids[None])[0]
    for rows in (1, 3):
        reader = CachedReader(model, rows)
        got = [reader.begin(ids[:20])]
        got += [reader.read(token.expand(rows, 1)) for token in ids[20:]]
        for n, logits in enumerate(got):
            assert torch.allclose(logits, expected[19 + n].expand(rows, -1), atol=1e-4)


@torch.no_grad()
def test_hooks_are_told_how_many_tokens_came_before(model, ids):
    """Added to the state at every position: its number, in the row's own direction."""
    directions = torch.eye(32)[:2]

    def edit(states, offset):
        at = torch.arange(offset, offset + states.shape[1])
        return states + at[:, None] * directions[: len(states), None]

    @contextmanager
    def hooks(offset):
        offsets.append(offset)
        with hooked(model, {HOOK: lambda states: edit(states, offset)}):
            yield

    with hooked(model, {HOOK: lambda states: edit(states, 0)}):
        expected = forward(model, ids.expand(2, -1))
    offsets = []
    reader = CachedReader(model, 2, hooks=hooks)
    assert torch.allclose(reader.begin(ids[:20]), expected[:, 19], atol=1e-4)
    for n, token in enumerate(ids[20:]):
        assert torch.allclose(reader.read(token.expand(2, 1)), expected[:, 20 + n], atol=1e-4)
    assert offsets == [0, *range(20, len(ids))]


@torch.no_grad()
def test_a_beginning_that_hooks_leave_alone_is_read_once(model, ids):
    seen = []

    @contextmanager
    def hooks(offset):
        with hooked(model, {HOOK: lambda states: seen.append((offset, *states.shape[:2]))}):
            yield

    reader = CachedReader(model, 3, hooks=hooks, alike=18)
    assert torch.allclose(reader.begin(ids[:20]), forward(model, ids[None, :20])[:, -1], atol=1e-4)
    assert seen == [(18, 3, 2)]


def test_a_pass_is_stopped_before_its_next_block(model, ids):
    asked, before = [], [len(block._forward_pre_hooks) for block in model.blocks]

    def stop():
        asked.append(1)
        return len(asked) == 2

    with pytest.raises(Stopped):
        CachedReader(model, stop=stop).begin(ids)
    assert len(asked) == 2
    asked.clear()
    with pytest.raises(Stopped), stopping(model, stop):
        forward(model, ids[None])
    assert len(asked) == 2
    with stopping(model, None):
        forward(model, ids[None])
    assert [len(block._forward_pre_hooks) for block in model.blocks] == before
