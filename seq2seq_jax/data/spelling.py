"""Texts spelled by the pieces of a vocabulary."""

from collections.abc import Sequence


class Speller:
    """The ids of a vocabulary that spell a text."""

    def __init__(self, pieces: Sequence[str]):
        """Args:
        pieces: text of each id, see `Tokenizer.spellings`; of equal texts the first counts, and empty ones do not.
        """
        self.ids: dict[str, int] = {}
        for token, text in enumerate(pieces):
            if text:
                self.ids.setdefault(text, token)
        self._longest = max(map(len, self.ids), default=0)

    def spell(self, text: str) -> tuple[int, ...]:
        """The piece that is the text, or the longest pieces from the left; of a character without a piece those of its
        bytes, where there are any, and otherwise nothing.
        """
        if text in self.ids:
            return (self.ids[text],)
        found, place = [], 0
        while place < len(text):
            for length in range(min(self._longest, len(text) - place), 0, -1):
                token = self.ids.get(text[place : place + length])
                if token is not None:
                    found.append(token)
                    place += length
                    break
            else:
                names = [f"<0x{byte:02X}>" for byte in text[place].encode()]
                found += [self.ids[name] for name in names if name in self.ids]
                place += 1
        return tuple(found)
