"""What a trained prior has words for, as written into its folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from avatar_gs.core.io import write_json
from avatar_gs.lab.world import vocabulary as mini
from avatar_gs.lab.world.people import individuals

Descriptions = Mapping[str, Sequence[str] | Mapping[str, Sequence[str]]]


@dataclass(frozen=True)
class Language:
    """The words of a world."""

    words: Sequence[str]
    """Words of one token each."""
    untaught: Sequence[str]
    """Those of ``words`` that no caption uses."""
    names: Sequence[str]
    """Names of individuals, of two words each."""
    descriptions: Descriptions
    """Alternative phrases for each attribute (see ``prior.vocabulary.describable``)."""

    @property
    def tokens(self) -> list[str]:
        """All words of one token with those of the names, sorted."""
        return sorted(set(self.words) | {word for name in self.names for word in name.split()})

    @property
    def known(self) -> list[str]:
        """The words of one token that occur in captions, so that prompts may use them."""
        return [word for word in self.tokens if word not in self.untaught]

    def write(self, folder: Path) -> None:
        """Write ``vocabulary.json``, ``names.json`` and ``descriptions.json``."""
        write_json(folder / "vocabulary.json", self.known)
        write_json(folder / "names.json", list(self.names))
        write_json(folder / "descriptions.json", dict(self.descriptions))


def mini_language() -> Language:
    """The words of the mini world."""
    names = [person.name for person in individuals()]
    return Language(mini.words(), mini.UNTAUGHT_WORDS.split(), names, mini.descriptions())
