"""Where frames go: a window on the screen, or an animated file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium.error import DependencyNotInstalled
from PIL import Image

from pecgym.errors import PecGymError

_GIF_COLOURS = 64
_PACKED = np.array([1 << 16, 1 << 8, 1])


class Window:
    """A window that shows frames, one after the other; needs pygame (the extra `render`).

    When its user closes it, it stays closed, and `show` does nothing: the simulation goes on.
    """

    def __init__(self, size: tuple[int, int], title: str = "PecGym", frames_per_s: float = 30.0) -> None:
        """size: width and height of the frames, pixels. frames_per_s: `show` waits so that there are not more.

        Raises gymnasium.error.DependencyNotInstalled without pygame.
        """
        try:
            import pygame
        except ImportError as error:
            raise DependencyNotInstalled(
                'render_mode="human" needs pygame, which is not installed: pip install "pecgym[render]"'
            ) from error
        self._pygame: Any = pygame
        self._frames_per_s = frames_per_s
        pygame.display.init()
        self._screen: Any = pygame.display.set_mode(size)
        pygame.display.set_caption(title)
        self._clock = pygame.time.Clock()

    @property
    def is_open(self) -> bool:
        """Whether there is still a window."""
        return self._screen is not None

    def show(self, frame: np.ndarray) -> None:
        """Shows a frame, uint8[height, width, 3]. Raises PecGymError for one of another size than the window's."""
        pygame = self._pygame
        if self.is_open and any(event.type == pygame.QUIT for event in pygame.event.get()):
            self.close()
        if not self.is_open:
            return
        width, height = self._screen.get_size()
        if frame.shape != (height, width, 3):
            raise PecGymError(f"a frame of shape {frame.shape} in a window of {width} x {height} pixels")
        pygame.surfarray.blit_array(self._screen, frame.swapaxes(0, 1))
        pygame.display.flip()
        self._clock.tick(self._frames_per_s)

    def close(self) -> None:
        """Closes the window, if it is open."""
        if self.is_open:
            self._screen = None
            self._pygame.display.quit()


def save_gif(frames: Sequence[np.ndarray], path: str | Path, seconds_per_frame: float = 0.1) -> None:
    """Writes frames, uint8[height, width, 3] each, as an animated GIF that repeats.

    Kept are the 64 colours that occur most, which is right for charts and not for photographs. The format counts time
    in hundredths of a second.

    Raises PecGymError without frames, for frames of different sizes, or for a time below 0.02 s, which viewers ignore.
    """
    if not len(frames) or any(frame.shape != frames[0].shape for frame in frames):
        raise PecGymError(f"{path}: a GIF needs frames of one size, got {sorted({frame.shape for frame in frames})}")
    if not seconds_per_frame >= 0.02:
        raise PecGymError(f"{path}: seconds_per_frame={seconds_per_frame}, use 0.02 s or more")
    images = [Image.fromarray(frame) for frame in frames]
    pixels: Counter[Any] = Counter()
    for image in images:
        for count, colour in image.getcolors(image.width * image.height) or ():
            pixels[colour] += count
    kept = np.array([colour for colour, _ in pixels.most_common(_GIF_COLOURS)], np.uint8)
    first, *others = _in_palette(frames, np.array(list(pixels)), kept)
    first.save(
        path,
        format="GIF",
        save_all=True,
        append_images=others,
        duration=round(100 * seconds_per_frame) * 10,
        loop=0,
        optimize=True,
    )


def _in_palette(frames: Sequence[np.ndarray], colours: np.ndarray, kept: np.ndarray) -> Iterator[Image.Image]:
    """Frames in the nearest of the kept colours (Pillow's choice is coarser); colours: int[n, 3], all that occur."""
    distance = ((colours[:, None].astype(np.int64) - kept) ** 2).sum(axis=2)
    nearest = np.zeros(1 << 24, np.uint8)
    nearest[colours @ _PACKED] = distance.argmin(axis=1)
    for frame in frames:
        image = Image.fromarray(nearest[frame @ _PACKED])
        image.putpalette(kept.tobytes())
        yield image
