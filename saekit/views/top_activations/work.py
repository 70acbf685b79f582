"""The slow work of the top-activations view: reading a prompt, searching. It knows no widget."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from saekit.errors import FeatureIndexError
from saekit.views._shared.index_side import check_index_pair, search_hits
from saekit.views._shared.view import Changes
from saekit.views.top_activations.state import prompt_result

if TYPE_CHECKING:
    from sae_lens import SAE, SAETransformerBridge

    from saekit.index import FeatureIndex, PromptReading

LONGEST_CHARACTERS = 2_000  # of a prompt; more is a corpus, and belongs in an index


class Reading:
    """Reads prompts with a model and its SAE, and searches an index.

    A prompt is run once: another feature on the same prompt is another column of what is there already.
    """

    def __init__(
        self,
        index: "FeatureIndex",
        model: "SAETransformerBridge | None",
        sae: "SAE | None",
        names: Mapping[int, str],
    ) -> None:
        if (model is None) != (sae is None):
            raise FeatureIndexError("got only one of model= and sae=: your own text needs both, an index alone neither")
        if model is not None and sae is not None:
            check_index_pair(index, model, sae)
        self._index, self._model, self._sae, self._names = index, model, sae, names
        self._read: tuple[str, PromptReading] | None = None

    @property
    def live(self) -> bool:
        """Whether there is a model to read with."""
        return self._model is not None

    def prompt(self, prompt: str, feature: int) -> Changes:
        """Read a prompt for one feature; yield traits of the view."""
        assert self._model is not None and self._sae is not None
        text = prompt[:LONGEST_CHARACTERS]
        if self._read is None or self._read[0] != text:
            self._read = text, self._index.read_prompt(self._model, self._sae, text)
        reading = self._read[1]
        told = ""
        if reading.truncated:
            told = (
                f"The text is longer than the model's context: only its first {len(reading.tokens):,} tokens are used."
            )
        elif len(prompt) > len(text):
            told = f"The text has {len(prompt):,} characters: only the first {LONGEST_CHARACTERS:,} are used."
        result = prompt_result(reading, prompt, feature, float(self._index.max[feature]))
        yield {"_result": result, "error": told}

    def search(self, query: Mapping[str, str]) -> Changes:
        """Search the index; yield traits of the view."""
        yield {"_hits": search_hits(self._index, query, self._names), "error": ""}
