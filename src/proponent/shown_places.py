"""Places in messages: a folder that stands for something in a bucket is shown as the url that the user gave."""

_SHOWN: dict[str, str] = {}


def show_as(folder: str, url: str) -> None:
    """Show a folder as a url from now on."""
    _SHOWN[folder] = url


def as_shown(text: str) -> str:
    """Replace such folders in a text; the longest first."""
    for folder in sorted(_SHOWN, key=len, reverse=True):
        text = text.replace(folder, _SHOWN[folder])
    return text
