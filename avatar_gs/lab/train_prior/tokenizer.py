"""A CLIP byte-pair vocabulary in which every word of a world is one token."""

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from transformers import CLIPTokenizer

TOKEN_LENGTH = 64
END_OF_WORD = "</w>"


def write_tokenizer(folder: Path, words: Sequence[str]) -> CLIPTokenizer:
    """Write ``vocab.json``, ``merges.txt`` and the configuration; returns the tokenizer read back from them.

    Args:
        words: sorted; each becomes one token.

    Raises:
        ValueError: if a word is not one token (merges of one word can break another's).
    """
    vocabulary, merges = _byte_pairs(words)
    folder.mkdir(parents=True, exist_ok=True)
    tokens = {token: index for index, token in enumerate(vocabulary)}
    (folder / "vocab.json").write_text(json.dumps(tokens, ensure_ascii=False), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = {
        "tokenizer_class": "CLIPTokenizer",
        "model_max_length": TOKEN_LENGTH,
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
        "do_lower_case": True,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    tokenizer = CLIPTokenizer.from_pretrained(str(folder))
    broken = [word for word in words if len(tokenizer.tokenize(word)) != 1]
    if broken:
        raise ValueError(f"these words are more than one token: {broken}")
    return tokenizer


def _byte_pairs(wanted: Sequence[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """Vocabulary and merges; merges are added one at a time, to the current split of each word, so that none breaks
    another word."""
    letters = _byte_letters()
    vocabulary = letters + [letter + END_OF_WORD for letter in letters]
    known, ranks = set(vocabulary), {}
    for word in wanted:
        while len(pieces := _split(word, ranks)) > 1:
            pair = (pieces[0], pieces[1])
            ranks[pair] = len(ranks)
            if (merged := "".join(pair)) not in known:
                known.add(merged)
                vocabulary.append(merged)
    return [*vocabulary, "<|startoftext|>", "<|endoftext|>"], list(ranks)


def _split(word: str, ranks: dict[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding of one word with given merges."""
    pieces = [*word[:-1], word[-1] + END_OF_WORD]
    while len(pieces) > 1:
        pairs = list(pairwise(pieces))
        best = min(pairs, key=lambda pair: ranks.get(pair, len(ranks)))
        if best not in ranks:
            break
        joined, index = [], 0
        while index < len(pieces):
            if tuple(pieces[index : index + 2]) == best:
                joined.append("".join(best))
                index += 2
            else:
                joined.append(pieces[index])
                index += 1
        pieces = joined
    return pieces


def _byte_letters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]
