"""What a prior reads of a prompt: cutting it to the token length, and the words that it never learned."""

import json
import re
from pathlib import Path

from transformers import CLIPTokenizer

from avatar_gs.prior.config import PLACEHOLDER as IDENTITY

WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
PLACEHOLDER = re.compile(r"<[^<>\s]*>")


def truncate(
    tokenizer: CLIPTokenizer, length: int, prompt: str, reserve: str = "", identity_rows: int = 1
) -> tuple[str, str]:
    """``(kept, cut)`` with ``kept + cut == prompt``: ``kept`` and then ``reserve`` fit into ``length`` tokens, of which
    each ``<id>`` takes ``identity_rows``."""
    room = length - 2 - len(_token_starts(tokenizer, reserve, identity_rows))
    starts = _token_starts(tokenizer, prompt, identity_rows)
    if len(starts) <= room:
        return prompt, ""
    start = starts[max(room, 0)]
    if start and prompt[start - 1].isalnum() and prompt[start].isalnum():  # never keep half of a word
        start = max((match.start() for match in WORD.finditer(prompt) if match.start() < start), default=0)
    return prompt[:start], prompt[start:]


def _token_starts(tokenizer: CLIPTokenizer, prompt: str, identity_rows: int) -> list[int]:
    """Where in ``prompt`` each of its tokens begins; the rows of an ``<id>`` all begin where it does."""
    starts: list[int] = []
    position = 0
    for index, part in enumerate(prompt.split(IDENTITY)):
        if index:
            starts += [position] * identity_rows
            position += len(IDENTITY)
        tokens = tokenizer(part, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        starts += [position + begin for begin, _ in tokens.offset_mapping]
        position += len(part)
    return starts


def read_vocabulary(folder: Path) -> frozenset[str] | None:
    """The words of a prior that was trained on a closed vocabulary (``vocabulary.json``, a list), else None."""
    file = folder / "vocabulary.json"
    return frozenset(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else None


def unknown_words(prompt: str, vocabulary: frozenset[str]) -> list[str]:
    """The words of ``prompt`` outside ``vocabulary``, in lower case, each once; placeholders (<id>) are no words."""
    words = [match.lower() for match in WORD.findall(PLACEHOLDER.sub(" ", prompt))]
    unknown = [w for w in words if w not in vocabulary and not all(part in vocabulary for part in re.split("[-']", w))]
    return list(dict.fromkeys(unknown))
