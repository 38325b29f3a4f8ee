"""The scenes that the embedded model can paint, as names, and the held-out combinations.

Holds names only: `scene_renderer` knows how an object looks, `captions` how it is described.
The order of the tuples is part of trained weights (`codes`): append, never insert.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

# Each object's name, the icon that shows it, and its other names in prompts.
OBJECTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cat": ("cat", ("kitten", "kitty")),
    "dog": ("dog", ("puppy", "hound")),
    "fox": ("fox", ()),
    "bear": ("bear", ("grizzly",)),
    "lion": ("lion", ()),
    "tiger": ("tiger", ()),
    "elephant": ("elephant", ()),
    "horse": ("horse", ("stallion", "pony")),
    "cow": ("cow", ("cattle",)),
    "pig": ("pig", ("piglet",)),
    "rabbit": ("rabbit", ("bunny", "hare")),
    "monkey": ("monkey", ("ape",)),
    "penguin": ("penguin", ()),
    "owl": ("owl", ()),
    "duck": ("duck", ("mallard",)),
    "flamingo": ("flamingo", ()),
    "dolphin": ("dolphin", ()),
    "whale": ("whale", ()),
    "shark": ("shark", ()),
    "fish": ("tropical-fish", ("goldfish",)),
    "octopus": ("octopus", ("squid",)),
    "crab": ("crab", ()),
    "turtle": ("turtle", ("tortoise",)),
    "frog": ("frog", ("toad",)),
    "snake": ("snake", ("serpent",)),
    "butterfly": ("butterfly", ()),
    "bee": ("honeybee", ("honeybee", "bumblebee")),
    "snail": ("snail", ()),
    "giraffe": ("giraffe", ()),
    "dinosaur": ("t-rex", ("tyrannosaurus", "t-rex")),
    "dragon": ("dragon", ()),
    "unicorn": ("unicorn", ()),
    "deer": ("deer", ("stag",)),
    "parrot": ("parrot", ("macaw",)),
    "car": ("automobile", ("sports car", "automobile", "sedan")),
    "truck": ("delivery-truck", ("lorry", "delivery truck", "van")),
    "bus": ("bus", ("school bus", "coach")),
    "train": ("locomotive", ("locomotive", "steam train")),
    "bicycle": ("bicycle", ("bike",)),
    "motorcycle": ("motorcycle", ("motorbike",)),
    "airplane": ("airplane", ("plane", "aeroplane", "jet")),
    "helicopter": ("helicopter", ("chopper",)),
    "rocket": ("rocket", ("spaceship", "spacecraft")),
    "boat": ("sailboat", ("sailboat", "sailing boat", "yacht")),
    "ship": ("ship", ("ocean liner", "vessel")),
    "tractor": ("tractor", ()),
    "ufo": ("flying-saucer", ("flying saucer",)),
    "house": ("house", ("cottage", "home")),
    "castle": ("castle", ("fortress", "palace")),
    "church": ("church", ("chapel",)),
    "tent": ("tent", ("camping tent",)),
    "factory": ("factory", ()),
    "apple": ("red-apple", ()),
    "banana": ("banana", ()),
    "strawberry": ("strawberry", ()),
    "watermelon": ("watermelon", ("slice of watermelon",)),
    "pineapple": ("pineapple", ("ananas",)),
    "pizza": ("pizza", ("slice of pizza",)),
    "hamburger": ("hamburger", ("burger", "cheeseburger")),
    "cake": ("birthday-cake", ("birthday cake",)),
    "cupcake": ("cupcake", ("muffin",)),
    "ice cream": ("soft-ice-cream", ("ice cream cone", "icecream", "gelato")),
    "doughnut": ("doughnut", ("donut",)),
    "coffee cup": ("hot-beverage", ("cup of coffee", "cup of tea", "coffee", "mug", "tea cup")),
    "tree": ("deciduous-tree", ("oak", "oak tree")),
    "palm tree": ("palm-tree", ("palm",)),
    "cactus": ("cactus", ("saguaro",)),
    "sunflower": ("sunflower", ()),
    "rose": ("rose", ()),
    "tulip": ("tulip", ("flower",)),
    "mushroom": ("mushroom", ("toadstool",)),
    "chair": ("chair", ("wooden chair",)),
    "guitar": ("guitar", ("electric guitar",)),
    "umbrella": ("umbrella", ("parasol",)),
    "balloon": ("balloon", ()),
    "book": ("closed-book", ("novel", "notebook")),
    "key": ("key", ()),
    "crown": ("crown", ("tiara",)),
    "alarm clock": ("alarm-clock", ("clock",)),
    "camera": ("camera", ()),
    "teapot": ("teapot", ("kettle",)),
    "backpack": ("backpack", ("rucksack",)),
    "gift": ("wrapped-gift", ("present", "gift box")),
    "robot": ("robot", ("android",)),
    "ghost": ("ghost", ("spirit",)),
    "snowman": ("snowman", ()),
    "teddy bear": ("teddy-bear", ("plush bear", "teddy")),
    "bell": ("bell", ()),
    "trophy": ("trophy", ("golden cup",)),
    "lamp": ("light-bulb", ("light bulb", "bulb")),
    "sneaker": ("running-shoe", ("shoe", "running shoe", "trainer")),
    "hat": ("top-hat", ("top hat",)),
    "astronaut": ("astronaut", ("spaceman", "cosmonaut")),
    "firefighter": ("firefighter", ("fireman",)),
    "chef": ("cook", ("cook", "baker")),
    "farmer": ("farmer", ()),
    "police officer": ("police-officer", ("policeman", "policewoman", "cop")),
    "doctor": ("health-worker", ("nurse", "physician")),
}
COLOURS = (
    "red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "white",
)  # fmt: skip
SETTINGS = (
    "mountain", "sea", "beach", "forest", "city", "desert", "night", "sunset", "snow", "room",
    "studio", "white", "space", "meadow",
)  # fmt: skip
STYLES = (
    "general", "sticker", "minimalist", "comic", "product", "photorealistic", "illustration",
)  # fmt: skip
SIZES = ("normal", "small", "large")
POSITIONS = ("centre", "left", "right")

# Width and height in pixels of the five aspect ratios: about 36,864 pixels each.
CANVASES = {
    "1:1": (192, 192),
    "16:9": (256, 144),
    "9:16": (144, 256),
    "3:2": (240, 160),
    "21:9": (288, 128),
}

HELD_OUT_PERCENT = 18


@dataclass(frozen=True)
class Scene:
    """What a picture shows; None where the prompt says nothing about it."""

    object: str | None
    colour: str | None = None
    setting: str | None = None
    style: str = "general"
    size: str = "normal"
    position: str = "centre"


def held_out(scene: Scene) -> bool:
    """Return whether the scene's object, colour and setting together are held out of training."""
    if scene.object is None or scene.colour is None or scene.setting is None:
        return False
    name = f"{scene.object}/{scene.colour}/{scene.setting}"
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 100 < HELD_OUT_PERCENT
