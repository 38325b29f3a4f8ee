"""Says a scene in many wordings, short and long, with the filler that enhancement adds.

It knows the words of the catalogue and nothing of pictures or models. Whatever is said first
counts: a colour or place named later, in the filler, belongs to the filler.
"""

from __future__ import annotations

import random
import re
import string
import tomllib
from pathlib import Path

from training.scene_catalog import COLOURS, Scene
from training.things import NOUNS, OBJECTS

PLACES: dict[str, tuple[str, ...]] = {
    "mountain": (
        "on a mountain road", "in the mountains", "in front of a mountain", "on a mountain",
        "in the alps", "near snowy peaks", "high in the mountains", "below a mountain peak",
        "in a mountain landscape", "on a mountain pass",
    ),
    "sea": (
        "at sea", "on the sea", "on the ocean", "over the ocean", "in the ocean", "on the open sea",
        "above the waves", "in the sea", "on the water", "underwater", "on a lake",
    ),
    "beach": (
        "on the beach", "on a sandy beach", "at the beach", "by the seaside", "on the shore",
        "on a tropical beach", "on the coast",
    ),
    "forest": (
        "in the forest", "in a forest", "among trees", "in the woods", "in a dark forest",
        "in the jungle", "among pine trees", "between tall trees",
    ),
    "city": (
        "in the city", "on a city street", "in front of skyscrapers", "in a big city", "downtown",
        "in town", "on the street", "in the streets of a city", "among tall buildings",
    ),
    "desert": (
        "in the desert", "on sand dunes", "in a sandy desert", "among dunes", "in the sahara",
        "on a desert road",
    ),
    "night": (
        "at night", "under the stars", "under the moon", "at midnight", "in the moonlight",
        "on a starry night", "under a night sky", "in the dark of night",
    ),
    "sunset": (
        "at sunset", "in the evening sun", "at dusk", "during sunset", "in front of a sunset",
        "at sundown", "in the evening", "at sunrise",
    ),
    "snow": (
        "in the snow", "in winter", "on a snowy field", "in a snowy landscape", "in falling snow",
        "on the ice", "in a blizzard",
    ),
    "room": (
        "in a room", "in the living room", "indoors", "in a cozy room", "in the house", "at home",
        "in a bedroom", "in the kitchen", "in an office",
    ),
    "studio": (
        "in a studio", "in a photo studio", "on a grey studio backdrop", "on a grey background",
        "in the studio", "against a grey wall",
    ),
    "white": (
        "on a white background", "on white", "on a plain white background", "isolated on white",
        "with a white background", "against a white background", "on a pure white ground",
    ),
    "space": (
        "in space", "in outer space", "among planets", "in the galaxy", "floating in space",
        "in the cosmos", "between the planets",
    ),
    "meadow": (
        "in a meadow", "on a meadow", "in a field", "on green grass", "in the park", "in a garden",
        "on a green hill", "in a field of flowers", "in the countryside", "on the grass",
    ),
}  # fmt: skip

# How a setting is named before the object.
SCENERY: dict[str, str] = {
    "mountain": "a mountain landscape", "sea": "the open sea", "beach": "a sandy beach",
    "forest": "a forest", "city": "a city street", "desert": "a desert", "night": "a starry night",
    "sunset": "a sunset", "snow": "a snowy landscape", "room": "a cozy room",
    "studio": "a grey studio", "white": "a white background", "space": "outer space",
    "meadow": "a green meadow",
}  # fmt: skip

MEDIA: dict[str, tuple[str, ...]] = {
    "general": (
        "", "", "", "", "", "", "a picture of", "an image of", "a detailed picture of", "a view of",
        "a scene with", "show me", "please draw", "a portrait of", "there is",
    ),
    "sticker": (
        "a sticker of", "a die-cut vector sticker of", "a cute sticker of", "a die-cut sticker of",
        "a vector sticker of", "sticker:",
    ),
    "minimalist": (
        "a minimalist flat design of", "a minimalist picture of", "a minimalist logo of",
        "a minimal design of", "a minimalist icon of", "a simple minimalist drawing of",
    ),
    "comic": (
        "a comic book panel of", "a comic panel of", "a comic of", "a comic book drawing of",
        "an inked comic panel of", "a wide comic panel of", "a manga panel of",
    ),
    "product": (
        "a studio product photo of", "a product photo of", "a product shot of",
        "a professional product photograph of", "a catalogue product photo of",
    ),
    "photorealistic": (
        "a photorealistic photo of", "a photo of", "a photograph of", "a realistic photo of",
        "a photorealistic shot of", "a photorealistic picture of",
    ),
    "illustration": (
        "an illustration of", "a hand-drawn illustration of", "a colourful illustration of",
        "a storybook illustration of", "a flat illustration of", "a watercolour illustration of",
    ),
}  # fmt: skip

STYLE_NAMES: dict[str, tuple[str, ...]] = {
    "general": ("in clear detail",),
    "sticker": ("as a die-cut vector sticker", "as a sticker", "sticker style", "sticker"),
    "minimalist": ("minimalist design", "minimalist", "in a minimalist style", "minimalism"),
    "comic": ("in comic book style", "comic style", "as a comic panel", "comic book"),
    "product": ("as a studio product shot", "product photography", "as a product shot"),
    "photorealistic": ("photorealistic", "realistic photo", "photo", "photorealism"),
    "illustration": ("in an illustrated style", "illustration", "as an illustration",
                     "illustrated"),
}  # fmt: skip

STYLE_PHRASES: dict[str, tuple[str, ...]] = {
    "general": (
        "balanced composition", "a clear focal point", "rich, natural colours", "clear detail",
        "natural light with soft shadows", "crisp small details", "soft light", "warm light",
        "carefully observed details", "well-judged composition with depth", "vivid colours",
        "golden hour sunlight", "clear morning light", "soft golden light from the side",
        "gentle, even light", "a wide sense of depth", "sharp and clear throughout", "calm mood",
        "soft overcast daylight", "finely rendered textures", "harmonious colours", "beautiful",
    ),
    "sticker": (
        "thick white die-cut border", "even white border all around", "bold, clean outlines",
        "thick black outlines", "few flat, saturated colours", "smooth vector shading",
        "cheerful flat colours", "thick white outline", "glossy highlights", "white border",
        "simple shapes that read at small size", "a compact, clear silhouette",
        "crisp vector edges",
        "chubby, simplified proportions", "plain background", "smooth white contour border",
    ),
    "minimalist": (
        "generous negative space", "only the essential shapes", "even line weight",
        "two flat colours",
        "simple geometric shapes", "no unnecessary detail", "plenty of empty space",
        "reduced to a few geometric shapes", "a single accent colour",
        "calm, uncluttered composition",
        "clean edges", "one clear silhouette", "very few elements", "wide empty space",
    ),
    "comic": (
        "bold black ink outlines", "halftone dots", "halftone dot shading",
        "radiating action lines",
        "dynamic panel composition", "speed lines streaking past", "heavy brush inks",
        "dramatic diagonal panel", "saturated primary colours", "solid black shadows", "ink lines",
        "bold impact lines in the background", "coarse halftone texture", "panel border",
    ),
    "product": (
        "two softboxes with gentle highlights", "seamless light grey backdrop",
        "on a pale stone base",
        "large softbox lighting from the side", "clean catalogue composition", "premium finish",
        "centred hero composition", "controlled studio lighting", "bright diffused studio light",
        "gentle reflection on the surface below", "precise edges and fine surface finish",
        "on a pale stone pedestal", "three-quarter view, centred", "soft shadow", "commercial shot",
    ),
    "photorealistic": (
        "85mm lens", "50mm lens", "35mm lens", "shallow depth of field", "fine film grain",
        "soft natural light", "softly blurred background", "crisp focus on the subject", "bokeh",
        "24mm wide-angle lens", "200mm telephoto lens", "true-to-life textures", "sharp focus",
        "realistic shadows and reflections", "natural skin texture", "balanced exposure",
        "high dynamic range", "individually visible hairs of the fur", "highly detailed",
    ),
    "illustration": (
        "soft watercolour washes over ink outlines", "flat gouache shapes with visible brushwork",
        "layered cut-paper shapes", "clean digital linework with soft shading", "art style",
        "textured coloured pencil on warm paper", "balanced, decorative composition",
        "flat colours",
        "storybook composition with a strong silhouette",
        "a limited palette of teal, cream and rust",
        "stylised, rhythmic shapes", "subtle paper grain", "a palette of warm reds and ochre",
    ),
}  # fmt: skip

# Phrases that may be in any prompt and do not change the picture.
NEUTRAL_PHRASES = (
    "carefully composed", "soft natural light", "warm light from a window", "a quiet low light",
    "seen from the side", "simple rounded forms", "fine detail in the feathers",
    "finely detailed fur",
    "big friendly eyes", "true reflections in paint and chrome", "weathered stone and brick",
    "delicate petals and leaves", "fresh, glistening texture", "strong contrast", "low camera",
    "clear readable shapes", "wide delighted eyes", "with long shadows", "gentle reflections",
    "rounded shapes", "a strong feeling of motion", "polished surface", "softly lit from above",
    "smooth textures", "crisp rim light from behind", "full-grain leather", "dust in the air",
)  # fmt: skip

ADJECTIVES = (
    "cute", "happy", "old", "beautiful", "shiny", "funny", "sleepy", "brave", "friendly", "vintage",
    "modern", "lovely", "tired", "elegant", "single", "fluffy", "young", "smiling", "fast",
    "sports",
    "magic", "golden-hearted", "rusty", "delicious", "wooden", "fresh", "wild", "lonely", "angry",
)  # fmt: skip
ACTIONS = (
    "standing", "sitting", "waiting", "resting", "looking at the camera", "seen from the side",
    "smiling", "parked", "placed", "posing", "walking", "running", "flying", "moving",
    "playing", "sleeping", "jumping", "eating", "leaning against a wall", "lying down",
)  # fmt: skip
SMALL = ("small", "tiny", "little")
LARGE = ("large", "big", "huge", "giant")
SIDES = {
    "left": ("on the left", "on the left side", "to the left", "at the left edge"),
    "right": ("on the right", "on the right side", "to the right", "at the right edge"),
}
SHADES = {
    "red": ("red", "red", "crimson", "scarlet"), "orange": ("orange", "orange"),
    "yellow": ("yellow", "yellow", "golden"), "green": ("green", "green", "emerald"),
    "blue": ("blue", "blue", "azure", "navy"), "purple": ("purple", "purple", "violet"),
    "pink": ("pink", "pink", "magenta"), "brown": ("brown", "brown"),
    "black": ("black", "black"), "white": ("white", "white"),
}  # fmt: skip
PALETTE_WORDS = (
    *COLOURS, "teal", "cream", "rust", "ochre", "navy", "coral", "mint", "gold", "grey",
)  # fmt: skip
# What cannot be painted: the scene has no object then.
_UNKNOWN_NOUNS = (
    "man", "woman", "girl", "boy", "zebra", "lighthouse", "violin", "bridge", "river", "freedom",
    "idea", "logo", "letter", "raccoon", "piano", "spoon", "waterfall", "pirate", "wizard", "goat",
    "leopard", "kettle", "boots", "superhero", "barista", "skeleton", "moose", "tower", "temple",
)  # fmt: skip


# Every name of an object, with the object.
NAMES_OF_OBJECTS: dict[str, str] = {
    known: name for name, thing in OBJECTS.items() for known in (name, *thing.names)
}
_ALL_NAMES = tuple(NAMES_OF_OBJECTS)
UNKNOWN_OBJECTS = tuple(
    noun for noun in _UNKNOWN_NOUNS if noun not in NAMES_OF_OBJECTS and noun not in NOUNS
)
_STAND_INS: dict[str, list[str]] = {name: [] for name in OBJECTS}
for _noun, _stand_in in NOUNS.items():
    _STAND_INS[_stand_in.object].append(_noun)


_LEADING = re.compile(
    r"^(?:(?:in front of|in|on|at|of|near|high|below|over|above|by|among|between|under|during|"
    r"against|with|floating|isolated|the dark of|a|an|the)\b ?)+"
)


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _gibberish(rng: random.Random) -> str:
    return "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 9)))


def _palette(rng: random.Random) -> str:
    first, second, third = rng.sample(PALETTE_WORDS, 3)
    opening = rng.choice(("colours of", "flat colours of", "a palette of", "accents of"))
    two = f"{opening} {first} and {second}"
    return f"{opening} {first}, {second} and {third}" if rng.random() < 0.5 else two


def _choose_noun(scene: Scene, rng: random.Random) -> str:
    """Return a name of the scene's object, or a noun that it stands in for."""
    assert scene.object is not None
    kind = rng.random()
    stand_ins = (
        [noun for noun in _STAND_INS[scene.object] if NOUNS[noun].colour in (None, scene.colour)]
        if kind > 0.8
        else []
    )
    others = OBJECTS[scene.object].names
    if stand_ins:
        return rng.choice(stand_ins)
    return rng.choice(others) if others and kind > 0.5 else scene.object


def _names_another(phrase: str, scene: Scene) -> bool:
    """Return whether a phrase names another object than the scene's, or another colour of it."""
    if phrase in NOUNS:
        stand_in = NOUNS[phrase]
        return stand_in.object != scene.object or stand_in.colour not in (None, scene.colour)
    return NAMES_OF_OBJECTS.get(phrase, scene.object) != scene.object


def _describe(scene: Scene, noun: str, rng: random.Random) -> str:
    """Return the noun with its size, colour and adjectives, never such that it names another."""
    colour = scene.colour
    if noun in NOUNS and NOUNS[noun].colour == colour and rng.random() < 0.8:
        colour = None
    words = []
    if scene.size == "small":
        words.append(rng.choice(SMALL))
    elif scene.size == "large":
        words.append(rng.choice(LARGE))
    adjectives = [rng.choice(ADJECTIVES) if rng.random() < share else "" for share in (0.15, 0.08)]
    adjectives = [
        word for word in adjectives if word and not _names_another(f"{word} {noun}", scene)
    ]
    words += adjectives[:1]
    if colour:
        shade = rng.choice(SHADES[colour])
        if rng.random() < 0.04 or _names_another(f"{shade} {noun}", scene):
            noun = f"{noun} in {shade}"
        else:
            words.append(shade)
    elif scene.object and not OBJECTS[scene.object].dye and rng.random() < 0.15:
        # What cannot be dyed keeps its colours, whatever is said.
        shade = rng.choice(SHADES[rng.choice(COLOURS)])
        words += [shade] if not _names_another(f"{shade} {noun}", scene) else []
    return " ".join([*words, *adjectives[1:], noun])


def _read_phrases() -> tuple[tuple[str, ...], dict[str, tuple[str, ...]]]:
    """What the enhancement adds: the lexicon's phrases, and each template's by its name.

    They name parts and surroundings, which are not the thing that is painted.
    """
    folder = Path(__file__).resolve().parents[2] / "banatie" / "enhancement"
    details: set[str] = set()
    for file in sorted((folder / "lexicon" / "things").glob("*.toml")):
        for entry in tomllib.loads(file.read_text(encoding="utf-8")).values():
            for name in ("details", "poses", "around", "light"):
                details |= {part.strip() for part in entry.get(name, "").split(";")} - {""}
    styles = {}
    for file in sorted((folder / "templates").glob("*.toml")):
        slots = tomllib.loads(file.read_text(encoding="utf-8")).get("slots", [])
        phrases = [each for slot in slots for each in slot.get("phrases", [])]
        texts = [each if isinstance(each, str) else each.get("text", "") for each in phrases]
        styles[file.stem] = tuple(text for text in texts if text)
    return tuple(sorted(details)), styles


DETAILS, TEMPLATE_PHRASES = _read_phrases()

SECOND_THINGS = (
    "on", "beside", "next to", "with", "in front of", "under", "holding", "near", "behind",
    "leaning against", "chasing", "looking at", "sitting on", "sleeping on", "playing with",
)  # fmt: skip


def _enhanced(scene: Scene, rng: random.Random) -> list[str]:
    """Return phrases as the enhancement adds them."""
    chosen = rng.sample(DETAILS, rng.randint(1, 4))
    if style := TEMPLATE_PHRASES.get(scene.style):
        chosen += rng.sample(style, min(len(style), rng.randint(0, 3)))
    return chosen


def write_caption(scene: Scene, rng: random.Random, noun: str | None = None) -> str:
    """Return a random caption of the scene, with `noun` for its object if given."""
    long = rng.random() < 0.55
    if scene.object is None:
        known = rng.choice(UNKNOWN_OBJECTS) if rng.random() < 0.6 else _gibberish(rng)
        noun = known if rng.random() < 0.8 or scene.setting is None else ""
    else:
        noun = noun or _choose_noun(scene, rng)
    subject = _describe(scene, noun, rng) if noun else ""
    if subject:
        opening = rng.random()
        if opening < 0.8:
            subject = _article(subject)
        elif opening < 0.9:
            subject = "the " + subject
        action = rng.choice(ACTIONS)
        if rng.random() < 0.15 and not _names_another(f"{noun} {action}", scene):
            subject += " " + action
        elif rng.random() < 0.12:
            # The first thing is what is painted.
            other = rng.choice(_ALL_NAMES)
            subject += f" {rng.choice(SECOND_THINGS)} {_article(other)}"
    where = rng.choice(PLACES[scene.setting]) if scene.setting else ""
    side = rng.choice(SIDES[scene.position]) if scene.position in SIDES else ""
    # A style is named by its medium, its name, or both.
    style_by = rng.choice(("medium", "manner", "medium", "both"))
    medium = rng.choice(MEDIA[scene.style]) if style_by != "manner" else ""
    manner = rng.choice(STYLE_NAMES[scene.style]) if style_by != "medium" else ""
    if scene.style == "general" and rng.random() < 0.8:
        manner = ""
    if scene.setting and subject and rng.random() < 0.1:
        body = f"{SCENERY[scene.setting]} with {subject}"
        body = " ".join(part for part in (medium, body, side) if part)
    elif rng.random() < 0.12 and where and subject and not medium:
        body = ", ".join(part for part in (f"{where}, {subject}", side) if part)
    else:
        order = [subject, side, where] if rng.random() < 0.3 else [subject, where, side]
        body = " ".join(part for part in [medium, *order] if part)
        if where and rng.random() < 0.1:
            body = body.replace(" " + where, ", " + where)
    parts = [body]
    if manner:
        parts.append(manner)
    if long and scene.object and DETAILS and rng.random() < 0.6:
        parts += _enhanced(scene, rng)
    elif long:
        neutral = NEUTRAL_PHRASES if scene.object else NEUTRAL_PHRASES[:4]
        pool = STYLE_PHRASES[scene.style] + neutral
        parts += rng.sample(pool, rng.randint(1, 6))
        if rng.random() < 0.3:
            parts.insert(rng.randint(1, len(parts)), _palette(rng))
        if rng.random() < 0.06 and scene.setting:
            parts.append(rng.choice(PLACES[rng.choice(tuple(PLACES))]))
    if rng.random() < 0.06:
        parts.append(_gibberish(rng) + (" " + _gibberish(rng)) * rng.randint(0, 2))
    text = ", ".join(part for part in parts if part)
    if rng.random() < 0.3:
        text = text[:1].upper() + text[1:]
    if rng.random() < 0.2:
        text += "."
    return text


def known_words() -> dict[str, list[str]]:
    """Return the names of all objects and settings that captions describe, without an article."""
    objects = [*NAMES_OF_OBJECTS, *NOUNS]
    phrases = [text for key, places in PLACES.items() for text in (key, SCENERY[key], *places)]
    settings = [_LEADING.sub("", phrase) for phrase in phrases]
    return {"objects": sorted({*objects}), "settings": sorted({*settings} - {*COLOURS})}


def base_words() -> set[str]:
    """Return every word that captions may contain but for the stand-ins, in lower case."""
    texts: list[str] = [*COLOURS, *PALETTE_WORDS, *ADJECTIVES, *ACTIONS, *SMALL, *LARGE]
    texts += [*UNKNOWN_OBJECTS, *NEUTRAL_PHRASES, *NAMES_OF_OBJECTS, *SCENERY.values()]
    for table in (PLACES, MEDIA, STYLE_NAMES, STYLE_PHRASES, SIDES, SHADES):
        texts += [text for group in table.values() for text in group]
    texts += ["a palette of", "accents of", "with and the an of in"]
    return _words(texts)


def stand_in_words() -> set[str]:
    """Return every word of the nouns that objects stand in for, in lower case."""
    return _words([*NOUNS])


def _words(texts: list[str]) -> set[str]:
    cleaned = " ".join(texts).lower()
    return set("".join(c if c.isalpha() else " " for c in cleaned).split())
