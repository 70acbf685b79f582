"""The colours of all views: one palette for stills and, as custom properties, for the stylesheets."""

BLUE, ORANGE = (0, 120, 186), (213, 94, 0)
# Okabe and Ito's hues, two of them darkened so that all have 3:1 on light and on dark ground.
HUES = (BLUE, ORANGE, (0, 148, 108), (196, 106, 158), (176, 122, 0), (118, 110, 200))
# What a colour stands for. Activations are never below 0 and have one hue; signed values have two, and their sign.
TONES = {"plus": BLUE, "minus": ORANGE, **{f"hue-{number}": hue for number, hue in enumerate(HUES)}}
FULL = 0.75  # opacity of the full shade: text on it keeps its contrast


def hue(number: int) -> str:
    """Return the tone of the thing with this number; after six they come again."""
    return f"hue-{number % len(HUES)}"


def sign(value: float) -> str:
    """Return the tone of a signed value."""
    return "minus" if value < 0 else "plus"


def rules() -> str:
    """Return the palette as a stylesheet: ``--saekit-blue``, and ``--saekit-tone`` under each ``.saekit-tone-NAME``."""
    named = f"  --saekit-blue: {_triple(BLUE)};\n  --saekit-orange: {_triple(ORANGE)};\n"
    root = f".saekit-panel {{\n{named}  --saekit-tone: {_triple(BLUE)};\n  --saekit-full: {FULL};\n}}\n"
    tones = (f".saekit-panel .saekit-tone-{name} {{\n  --saekit-tone: {_triple(c)};\n}}\n" for name, c in TONES.items())
    return root + "".join(tones)


def _triple(colour: tuple[int, int, int]) -> str:
    return " ".join(map(str, colour))
