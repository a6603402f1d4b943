"""What `init_from` says: which parts of a model training starts with, and where they come from."""

import dataclasses
import re

ALL = "all"
PARTS = ("encoder", "decoder", "embeddings")
"""Parts of a model: the stack of a side, and all tables of tokens (with the biases of logits), whose rows are found by
the text of their pieces."""

_NAMES = f"(?:{ALL}|{'|'.join(PARTS)})"
_HEAD = re.compile(rf"(?:^|,)({_NAMES}(?:\+{_NAMES})*)=")


@dataclasses.dataclass(frozen=True)
class Source:
    """Parts and the place that they come from.

    Attributes:
        parts: ("all",), or some of `PARTS`.
        place: RUN, RUN:CHECKPOINT or the directory of a model.
    """

    parts: tuple[str, ...]
    place: str


def sources_of(init_from: str) -> tuple[Source, ...]:
    """What a value of `init_from` says: PLACE, or PART[+PART]=PLACE, several of them joined by commas.

    Raises:
        ValueError: a part comes from two places, or from none.
    """
    heads = list(_HEAD.finditer(init_from))
    if not heads or heads[0].start() != 0:
        return (Source((ALL,), init_from),)
    found = []
    for head, following in zip(heads, [*heads[1:], None], strict=True):
        place = init_from[head.end() : None if following is None else following.start()]
        if not place:
            raise ValueError(
                f"init_from has {head[1]}= without the place that it comes from: give a RUN or a directory."
            )
        found.append(Source(tuple(head[1].split("+")), place))
    parts = [part for source in found for part in source.parts]
    doubled = [part for part in parts if parts.count(part) > 1]
    if doubled or (ALL in parts and len(parts) > 1):
        raise ValueError(
            f"init_from takes {doubled[0] if doubled else ALL} from several places, or beside other parts: give each "
            f"part once ({', '.join(PARTS)}), or {ALL} alone."
        )
    return tuple(found)
