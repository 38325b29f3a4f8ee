"""Training material made by processes: rendered scenes with captions, and captions alone.

The processes are forked before any device is used and know nothing of torch's devices. Pictures
cross by shared memory, small things by queues. `pools` keeps what arrives.
"""

from __future__ import annotations

import mmap
import multiprocessing
import os
import queue
import random
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy
import torch
from training.captions import write_caption
from training.codes import rows_of
from training.icons import IconSet
from training.latents import FACTOR
from training.scene_catalog import CANVASES, COLOURS, SETTINGS, STYLES, Scene, held_out
from training.scene_renderer import SceneRenderer
from training.things import OBJECTS

CAPTIONS_PER_SCENE = 4
CHANNELS_OF_PIXELS = 3
LARGEST = max(width * height for width, height in CANVASES.values()) * CHANNELS_OF_PIXELS
SQUARE_SHARE = 0.5


@dataclass(frozen=True)
class Delivery:
    """Scenes of one aspect ratio: which pixels, N × H × W × 3, and what they show.

    `tokens` is N × CAPTIONS_PER_SCENE × 77, `rows` N × 6 as in `codes`, `covered` N × H/16 × W/16:
    1 where the object is.
    """

    aspect: str
    pixels: numpy.ndarray
    rows: numpy.ndarray
    covered: numpy.ndarray
    tokens: numpy.ndarray


def random_training_scene(rng: random.Random, name: str | None, easy: bool) -> Scene:
    """Return a random scene of an object that is not held out.

    An easy one has its object in normal size in the centre.
    """
    while True:
        plain = easy or name is None or rng.random() < 0.7
        scene = Scene(
            object=name,
            colour=(
                rng.choice(COLOURS) if name and OBJECTS[name].dye and rng.random() < 0.6 else None
            ),
            setting=rng.choice(SETTINGS) if rng.random() < 0.85 else None,
            style=rng.choice(STYLES) if rng.random() < (0.4 if easy else 0.8) else "general",
            size="normal" if plain else rng.choice(("normal", "small", "large")),
            position="centre" if plain else rng.choice(("centre", "left", "right")),
        )
        if not held_out(scene):
            return scene


class Maker:
    """One process: renders and captions, or captions only while those are wanted."""

    def __init__(self, seed: int, icons: IconSet, tokenizer_folder: Path, size: int) -> None:
        # Imported here because the tokenizer's library must not start threads before the fork.
        from training.text_encoders import load_tokenizer, random_caption_scene

        self._rng = random.Random(seed)
        self._renderer = SceneRenderer(icons)
        self._tokenizer = load_tokenizer(tokenizer_folder)
        self._caption_scene = random_caption_scene
        self._names: list[str] = []
        self._size = size

    def tokenize(self, captions: list[str]) -> numpy.ndarray:
        tokens = self._tokenizer(captions, padding="max_length", truncation=True, max_length=77)
        return numpy.array(tokens.input_ids, numpy.int16)

    def captions(self, number: int, batches: int = 4) -> list[tuple[numpy.ndarray, numpy.ndarray]]:
        """Return batches of tokens and rows of captions.

        Captions of similar length share a batch, because padding is computed in vain.
        """
        texts, rows = [], []
        for _ in range(number * batches):
            scene, noun = self._caption_scene(self._rng)
            texts.append(write_caption(scene, self._rng, noun))
            rows.append(rows_of(scene))
        tokens, rows = self.tokenize(texts), numpy.array(rows, numpy.int16)
        lengths = (tokens != self._tokenizer.pad_token_id).sum(1) + 1
        order = lengths.argsort()
        found = []
        for first in range(0, len(order), number):
            chosen = order[first : first + number]
            end = min(tokens.shape[1], -(-int(lengths[chosen].max()) // 8) * 8)
            found.append((tokens[chosen, :end], rows[chosen]))
        self._rng.shuffle(found)
        return found

    def scenes(self, pixels: numpy.ndarray, easy: bool) -> tuple:
        """Render scenes of one aspect ratio into a flat array; return the rest of the delivery."""
        rng = self._rng
        square = easy or rng.random() < SQUARE_SHARE
        aspect = "1:1" if square else rng.choice(tuple(CANVASES)[1:])
        width, height = CANVASES[aspect]
        shape = (self._size, height, width, CHANNELS_OF_PIXELS)
        pictures = pixels.ravel()[: int(numpy.prod(shape))].reshape(shape)
        rows, texts = [], []
        covered = numpy.zeros((self._size, height // FACTOR, width // FACTOR), numpy.uint8)
        for place in range(self._size):
            if not self._names:
                # By rounds, so that every object occurs equally often.
                self._names = list(OBJECTS)
                rng.shuffle(self._names)
            name = self._names.pop() if rng.random() < 0.98 else None
            scene = random_training_scene(rng, name, easy)
            picture, mask = self._renderer.render(scene, width, height)
            pictures[place] = numpy.round(picture * 255)
            patches = mask.reshape(height // FACTOR, FACTOR, width // FACTOR, FACTOR)
            covered[place] = patches.mean((1, 3)) > 0.02
            rows.append(rows_of(scene))
            texts += [write_caption(scene, rng) for _ in range(CAPTIONS_PER_SCENE)]
        tokens = self.tokenize(texts).reshape(self._size, CAPTIONS_PER_SCENE, -1)
        return aspect, numpy.array(rows, numpy.int16), covered, tokens


def _work(
    make: Callable[[], Maker],
    wants_captions: Event,
    easy: Event,
    caption_size: int,
    slots: numpy.ndarray,
    free: multiprocessing.Queue,
    scenes: multiprocessing.Queue,
    captions: multiprocessing.Queue,
    writes_captions: bool,
) -> None:
    os.nice(5)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    torch.set_num_threads(1)
    maker = make()
    while True:
        if writes_captions and wants_captions.is_set() and not captions.full():
            for batch in maker.captions(caption_size):
                captions.put(batch)
            continue
        try:
            slot = free.get(timeout=1)
        except queue.Empty:
            continue
        scenes.put((slot, *maker.scenes(slots[slot], easy.is_set())))


class Supply:
    """The processes that make training material."""

    def __init__(
        self,
        icons: IconSet,
        tokenizer_folder: Path,
        workers: int,
        scene_size: int = 32,
        caption_size: int = 512,
        seed: int = 0,
    ) -> None:
        context = multiprocessing.get_context("fork")
        self._size = scene_size
        count = workers * 3 + 2
        shared = mmap.mmap(-1, count * scene_size * LARGEST)
        self._slots = numpy.frombuffer(shared, numpy.uint8).reshape(count, scene_size, LARGEST)
        self._free, self._scenes = context.Queue(), context.Queue()
        self._captions = context.Queue(maxsize=4 * workers + 8)
        self._wants_captions, self.easy = context.Event(), context.Event()
        self._wants_captions.set()
        self.easy.set()
        for slot in range(count):
            self._free.put(slot)
        self._processes = []
        for place in range(workers):

            def make(place: int = place) -> Maker:
                return Maker(seed * 1000 + place, icons, tokenizer_folder, scene_size)

            process = context.Process(
                target=_work,
                args=(
                    make, self._wants_captions, self.easy, caption_size, self._slots, self._free,
                    self._scenes, self._captions, place % 5 < 3 or workers == 1,
                ),
                daemon=True,
            )  # fmt: skip
            process.start()
            self._processes.append(process)

    def captions(self, timeout: float = 60) -> tuple[torch.Tensor, torch.Tensor]:
        """Return tokens, N × 77, and rows, N × 6, of the next captions."""
        tokens, rows = self._captions.get(timeout=timeout)
        return torch.from_numpy(tokens), torch.from_numpy(rows)

    def stop_captions(self) -> None:
        """Let all processes render from now on."""
        self._wants_captions.clear()
        try:
            while True:
                self._captions.get(timeout=0.2)
        except queue.Empty:
            pass

    def next_scenes(self, timeout: float) -> tuple[Delivery, Callable[[], None]] | None:
        """Return the next scenes and the function that gives their memory back, or None."""
        try:
            slot, aspect, rows, covered, tokens = self._scenes.get(timeout=timeout)
        except queue.Empty:
            return None
        width, height = CANVASES[aspect]
        shape = (self._size, height, width, CHANNELS_OF_PIXELS)
        pixels = self._slots[slot].ravel()[: int(numpy.prod(shape))].reshape(shape)
        return Delivery(aspect, pixels, rows, covered, tokens), lambda: self._free.put(slot)

    def alive(self) -> int:
        """Return how many of the processes are still running."""
        return sum(process.is_alive() for process in self._processes)

    def stop(self) -> None:
        """End the processes."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join(5)
