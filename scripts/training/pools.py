"""Rings of training material on the device, filled by a thread while training reads them."""

from __future__ import annotations

import contextlib
import threading
import time
import traceback

import torch
from training.latents import FACTOR, PatchBasis
from training.scene_catalog import CANVASES
from training.supply import CAPTIONS_PER_SCENE, Delivery, Supply

TOKENS = 77


class Ring:
    """The last scenes of one aspect ratio, as tensors of `capacity` rows on the device."""

    def __init__(self, aspect: str, capacity: int, device: torch.device, pictures: bool) -> None:
        width, height = CANVASES[aspect]
        down, across = height // FACTOR, width // FACTOR

        def room(*shape: int, dtype: torch.dtype) -> torch.Tensor:
            return torch.zeros(capacity, *shape, dtype=dtype, device=device)

        self.capacity, self.count, self._next = capacity, 0, 0
        self.tensors = {
            "rows": room(6, dtype=torch.int16),
            "covered": room(down, across, dtype=torch.uint8),
            "tokens": room(CAPTIONS_PER_SCENE, TOKENS, dtype=torch.int16),
            "latents": room(64, down, across, dtype=torch.float16),
        }
        if pictures:
            self.tensors["pixels"] = room(height, width, 3, dtype=torch.uint8)

    def add(self, values: dict[str, torch.Tensor]) -> None:
        """Write rows over the oldest ones."""
        number = len(values["rows"])
        if self._next + number > self.capacity:
            self._next = 0
        for name, tensor in self.tensors.items():
            tensor[self._next : self._next + number] = values[name]
        self._next += number

    def publish(self) -> None:
        """Make all rows written so far visible to readers."""
        self.count = max(self.count, self._next)

    def draw(self, number: int) -> torch.Tensor:
        """Return random places of rows."""
        return torch.randint(self.count, (number,), device=self.tensors["rows"].device)


class Pools:
    """For each aspect ratio, a large ring of latents and a small one with pixels too."""

    def __init__(
        self,
        supply: Supply,
        basis: PatchBasis,
        device: torch.device,
        latents: int = 160_000,
        pictures: int = 12_000,
    ) -> None:
        self._supply, self._basis, self._device = supply, basis, device
        sizes = {aspect: 1.0 if aspect == "1:1" else 0.3 for aspect in CANVASES}
        self.latents = {
            aspect: Ring(aspect, int(latents * share), device, False)
            for aspect, share in sizes.items()
        }
        self.pictures = {
            aspect: Ring(aspect, int(pictures * share), device, True)
            for aspect, share in sizes.items()
        }
        self.seen = 0
        if device.type == "cuda":
            # The rings are filled with zeros by the stream of training, and used by another one.
            torch.cuda.synchronize(device)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._receive, daemon=True)
        self._thread.start()

    def resume(self) -> None:
        """Receive again after `stop`."""
        if self._stopping.is_set():
            self._stopping.clear()
            self._thread = threading.Thread(target=self._receive, daemon=True)
            self._thread.start()

    def _receive(self) -> None:
        # On a stream of its own, so that copies do not wait behind the training's kernels.
        cuda = self._device.type == "cuda"
        stream = torch.cuda.Stream(self._device) if cuda else None
        while not self._stopping.is_set():
            try:
                arrived = self._supply.next_scenes(timeout=0.5)
                if arrived is None:
                    continue
                delivery, give_back = arrived
                with torch.cuda.stream(stream) if stream else contextlib.nullcontext():
                    self._take(delivery)
                    if stream:
                        stream.synchronize()
                give_back()
                self.latents[delivery.aspect].publish()
                self.pictures[delivery.aspect].publish()
                self.seen += len(delivery.rows)
            except Exception:  # noqa: BLE001 - the thread must go on; training would wait for ever
                traceback.print_exc()
                time.sleep(1)

    @torch.no_grad()
    def _take(self, delivery: Delivery) -> None:
        values = {
            name: torch.from_numpy(getattr(delivery, name)).to(self._device)
            for name in ("rows", "covered", "tokens", "pixels")
        }
        pixels = values["pixels"].permute(0, 3, 1, 2).float() / 127.5 - 1
        values["latents"] = self._basis.encode(pixels).half()
        self.latents[delivery.aspect].add(values)
        self.pictures[delivery.aspect].add(values)

    def wait(self, aspect: str, number: int, seconds: float) -> None:
        """Wait until a ring has so many rows; raises TimeoutError after `seconds`."""
        until = time.monotonic() + seconds
        while self.latents[aspect].count < number:
            if time.monotonic() > until:
                raise TimeoutError(
                    f"{self.latents[aspect].count} scenes of {aspect} in {seconds} s"
                )
            time.sleep(0.05)

    def stop(self) -> None:
        """End the thread."""
        self._stopping.set()
        self._thread.join(5)
