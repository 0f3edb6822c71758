"""How much of a text the model read, in words."""


def reading(at: int | None, pair_at: int | None, *, before: bool | None) -> str | None:
    """Say where a text and its second text were truncated; None if both were read to their ends."""
    which = "from character {} on" if before else "to character {}"
    said = [
        f"{name} {which.format(f'{place:,}')}"
        for name, place in (("the text", at), ("the second text", pair_at))
        if place is not None
    ]
    return f"the model reads {' and '.join(said)} only" if said else None
