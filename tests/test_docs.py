"""The how-to page runs from its first block to its last, and quotes what saekit says."""

import ast
import json
import random
import re
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import saekit as sk
from tests import tiny
from tests.models.test_gguf import write_gguf

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "your_own.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python( no-run)?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
WORDS = tiny.TEXT.replace("“", "").split()[:30]
TEXTS = [" ".join(random.Random(n).choices(WORDS, k=60)) for n in range(100)]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """Return a folder with what the page takes for granted."""
    desk = tmp_path_factory.mktemp("desk")
    tiny.write_model(desk / "my-model")
    write_gguf(desk / "my-model.gguf", desk / "my-model")
    write_saes(desk)
    (desk / "my-texts").mkdir()
    for number, text in enumerate(TEXTS):
        (desk / "my-texts" / f"{number:02}.txt").write_text(text, encoding="utf-8")
    rows = [json.dumps({"title": f"no. {n}", "body": text}) for n, text in enumerate(TEXTS)]
    (desk / "my-texts.jsonl").write_text("\n".join(rows), encoding="utf-8")
    cells = [f'{n},"{text}"' for n, text in enumerate(TEXTS)]
    (desk / "my-texts.csv").write_text("\n".join(["number,text", *cells]), encoding="utf-8")
    return desk


def write_saes(desk):
    """Write an SAE that rebuilds what it reads, as three libraries save it."""
    sae = tiny.own_sae("topk", 32, 64, k=16, model_name="my-model")
    axes = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(0)))[0]
    sae.W_dec.copy_(torch.cat([axes, -axes]))
    sae.W_enc.copy_(sae.W_dec.T)
    sae.b_enc.zero_()
    sae.b_dec.zero_()
    sae.save_model(str(desk / "my-sae"))
    encoder = {"encoder.weight": sae.W_enc.T.contiguous(), "encoder.bias": sae.b_enc, "b_dec": sae.b_dec}
    (desk / "my-dictionary").mkdir()
    counts = {"k": torch.tensor(16, dtype=torch.int32), "threshold": torch.tensor(-1.0)}
    torch.save({**encoder, **counts, "decoder.weight": sae.W_dec.T.contiguous()}, desk / "my-dictionary" / "ae.pt")
    trainer = {"dict_class": "AutoEncoderTopK", "lm_name": "my-model", "k": 16}
    (desk / "my-dictionary" / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    folder = desk / "my-sparsify" / "layers.1"
    folder.mkdir(parents=True)
    save_file({**encoder, "W_dec": sae.W_dec}, folder / "sae.safetensors")
    (folder / "cfg.json").write_text(json.dumps({"activation": "topk", "num_latents": 64, "k": 16, "d_in": 32}))


def test_the_page_runs_from_its_first_block_to_its_last(desk, monkeypatch):
    monkeypatch.chdir(desk)
    names = {}
    for mark, block in BLOCKS:
        if not mark:
            exec(compile(block, "docs/your_own.md", "exec"), names)
    assert not names["checkup"].wrong, names["checkup"]
    assert sk.FeatureIndex.load("my-index").hook_name == "blocks.1.hook_resid_post"
    page = (desk / "my-features.html").read_text(encoding="utf-8")
    assert "<html" in page and "https://" not in re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)


def test_what_needs_a_network_is_marked_and_names_what_there_is():
    assert {mark for mark, _ in BLOCKS} == {"", " no-run"}
    assert PAGE.count("```python") == len(BLOCKS)
    for _, block in BLOCKS:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "sk":
                assert hasattr(sk, node.attr), node.attr


def spoken():
    """Yield every text of the package, with … for what is filled in."""
    for path in (ROOT / "saekit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                yield "".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values)
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value


def test_every_message_of_the_table_is_one_that_saekit_says():
    quoted = re.findall(r"^\| `(.+?)` \|", PAGE, re.MULTILINE)
    assert len(quoted) > 15
    said = "\n".join(spoken())
    assert [words for words in quoted if not re.search(_pattern(words), said)] == []


def _pattern(words):
    """Return a pattern for a message whose … stands for anything within one text."""
    return ".*?".join(re.escape(part) for part in words.split("…"))


def test_links_resolve():
    for target in re.findall(r"\]\(([^)#\s]+)", PAGE):
        assert target.startswith("https://") or (ROOT / "docs" / target).exists(), target
    assert "docs/your_own.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    assert all(first != second for first, second in pairwise(sections))
