"""Make a thumbnail of a picture: `resize.py PICTURE` writes it beside the picture, and prints its path."""

import os
import sys

from PIL import Image


def main(path: str) -> None:
    stem, ending = os.path.splitext(path)
    thumbnail = f"{stem}-thumb{ending}"
    with Image.open(path) as picture:
        picture.thumbnail((320, 320))
        picture.save(thumbnail)
    print(thumbnail)


if __name__ == "__main__":
    main(sys.argv[1])
