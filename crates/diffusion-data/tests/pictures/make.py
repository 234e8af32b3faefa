"""Writes the pictures of this folder with Pillow (12.x): one motif in many formats, and the pixels that
Pillow reads from each.

    python -m venv venv && venv/bin/pip install pillow numpy && venv/bin/python make.py

`expected.npz` contains for each file name the pixels (H, W, 3) after EXIF orientation, over white where
the picture is transparent. Under the name followed by `@16` it has the middle square, scaled to 16x16 by
Pillow's antialiased bicubic filter.
"""

import io
import numpy as np
from PIL import Image, ImageOps

WIDTH, HEIGHT = 40, 24
y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
# Smooth, so that lossy formats preserve it, and different in each corner, so that rotations are detected.
rgb = np.stack([255 * x / (WIDTH - 1), 255 * y / (HEIGHT - 1), 128 + 90 * np.sin(x / 7) * np.cos(y / 5)], -1)
rgb = rgb.round().astype(np.uint8)
alpha = (255 * (x + y) / (WIDTH + HEIGHT - 2)).round().astype(np.uint8)
colour = Image.fromarray(rgb)
grey = colour.convert("L")
clear = Image.fromarray(np.dstack([rgb, alpha]))

pictures = {}


def keep(name, picture, **options):
    data = io.BytesIO()
    picture.save(data, **options)
    pictures[name] = data.getvalue()


keep("rgb.png", colour, format="PNG")
keep("rgba.png", clear, format="PNG")
keep("grey.png", grey, format="PNG")
keep("grey-alpha.png", clear.convert("LA"), format="PNG")
keep("palette.png", colour.quantize(32), format="PNG")
keep("bilevel.png", grey.convert("1"), format="PNG")
keep("grey16.png", Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), format="PNG")
clear_palette = colour.quantize(16)
keep("palette-clear.png", clear_palette, format="PNG", transparency=3)
keep("rgb.jpg", colour, format="JPEG", quality=95, subsampling=0)
keep("progressive.jpg", colour, format="JPEG", quality=95, subsampling=0, progressive=True)
keep("grey.jpg", grey, format="JPEG", quality=95)
keep("cmyk.jpg", colour.convert("CMYK"), format="JPEG", quality=95)
keep("lossless.webp", clear, format="WEBP", lossless=True, exact=True)
keep("lossy.webp", colour, format="WEBP", quality=95)
keep("rgb.bmp", colour, format="BMP")
keep("palette.bmp", colour.quantize(32), format="BMP")
keep("frames.gif", colour.quantize(32), format="GIF", save_all=True, append_images=[grey, grey])
for orientation in range(1, 9):
    exif = Image.Exif()
    exif[0x0112] = orientation
    keep(f"turned-{orientation}.jpg", colour, format="JPEG", quality=95, subsampling=0, exif=exif)

expected = {}
for name, data in pictures.items():
    open(name, "wb").write(data)
    picture = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture) / 257).round().astype(np.uint8))
    over = Image.new("RGBA", picture.size, "white")
    over.alpha_composite(picture.convert("RGBA"))
    picture = over.convert("RGB")
    expected[name] = np.asarray(picture)
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    box = (left, top, left + side, top + side)
    expected[name + "@16"] = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC, box=box))
np.savez_compressed("expected.npz", **expected)
