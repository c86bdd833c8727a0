"""Make a picture as large as a photograph: `photo.py FILE.jpg` (several megabytes of grain over a gradient)."""

import sys

from PIL import Image, ImageChops


def main(path: str) -> None:
    size = (3600, 2400)
    light = Image.linear_gradient("L").resize(size)
    bands = [ImageChops.add(light.rotate(turn).resize(size), Image.effect_noise(size, 60), 2) for turn in (0, 90, 180)]
    Image.merge("RGB", bands).save(path, quality=92)


if __name__ == "__main__":
    main(sys.argv[1])
