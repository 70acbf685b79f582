"""From a prompt to tokens, with the model's chat template or without, and from generated tokens to text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jaxtyping import Int
from torch import Tensor

from saekit.errors import SteeringError
from saekit.models import encode_start, given_ids

if TYPE_CHECKING:
    from sae_lens import SAETransformerBridge


def has_chat(model: "SAETransformerBridge") -> bool:
    """Return whether the model has a chat template."""
    return bool(getattr(model.tokenizer, "chat_template", None))


def prompt_ids(
    model: "SAETransformerBridge", prompt: str | Sequence[int] | Tensor, chat: bool | None
) -> Int[Tensor, " pos"]:
    """Return the tokens of a prompt that leave room for an answer.

    Args:
        model: The model.
        prompt: Text, or token ids, which are read as they are.
        chat: Put the text into the model's chat template, as the user's words; None: if the model has one.

    Raises:
        SteeringError: Empty, as long as the context, not tokens of the model, or no chat template.
        ModelError: A text, and the model has no tokenizer.
    """
    if chat and not has_chat(model):
        raise SteeringError(f"{model.cfg.model_name} has no chat template: pass chat=False to let it go on with a text")
    cut = False
    if isinstance(prompt, str):
        if not prompt.strip():
            raise SteeringError("the prompt is empty: expected at least one character that is not white space")
        start = encode_start(model, prompt, name="the prompt", error=SteeringError)
        cut, in_template = start.cut, has_chat(model) if chat is None else chat
        ids = _in_template(model, prompt) if in_template and not cut else start.ids
    else:
        if chat:
            raise SteeringError("chat=True needs the prompt as text, got tokens: they are read as they are")
        ids = given_ids(model, prompt, error=SteeringError)
    if cut or len(ids) >= model.cfg.n_ctx:
        raise SteeringError(
            f"the prompt fills the context of {model.cfg.n_ctx} tokens: no room for an answer. Shorten it"
        )
    return ids


def _in_template(model: "SAETransformerBridge", prompt: str) -> Int[Tensor, " pos"]:
    messages = [{"role": "user", "content": prompt}]
    encoded = model.tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt"
    )
    return encoded["input_ids"][0]


def end_tokens(model: "SAETransformerBridge") -> frozenset[int]:
    """Return the tokens after which a text ends: the tokenizer's and those of the model's generation settings."""
    found: set[int] = set()
    settings = getattr(getattr(model, "original_model", None), "generation_config", None)
    for ids in (getattr(model.tokenizer, "eos_token_id", None), getattr(settings, "eos_token_id", None)):
        found |= set() if ids is None else {ids} if isinstance(ids, int) else set(ids)
    return frozenset(found)


class Decoder:
    """Text of tokens that come one by one. What it has handed out does not change any more."""

    def __init__(self, model: "SAETransformerBridge") -> None:
        self._tokenizer = model.tokenizer
        self._ids: list[int] = []
        self.text = ""

    def add(self, token: int) -> str:
        """Return what a token adds to the text; "" while a character is incomplete."""
        self._ids.append(token)
        return self._new(self._whole().rstrip("\N{REPLACEMENT CHARACTER}"))

    def rest(self) -> str:
        """Return what is left at the end, bytes that are no character as a replacement character."""
        return self._new(self._whole())

    def _whole(self) -> str:
        if self._tokenizer is None:
            return "".join(f"<{token}>" for token in self._ids)
        # The whole text each time: a tokenizer may write a token differently at the start of a text.
        return self._tokenizer.decode(self._ids, clean_up_tokenization_spaces=False)

    def _new(self, text: str) -> str:
        new = text[len(self.text) :] if text.startswith(self.text) else ""
        self.text += new
        return new
