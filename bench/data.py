"""How fast training images are prepared, with the paper's recipe at 224 x 224: python bench/data.py [--workers 1 2]

The images are synthetic photographs of 500 x 375 pixels, JPEG of quality 90 and about 100 KB like ImageNet's; they are
read from a folder for each class and from a packed file. Prints the processor time of each operation on one core, and
the images per second that the loader gives for each number of worker processes while this process does nothing else. A
training step that takes t seconds for a batch of B needs B / t images per second. Writes
bench/results/data-<processor>.json."""

import argparse
import tempfile
import time
from io import BytesIO
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image, __version__ as pillow
from report import add_results, result_path, run, this_machine, write_json

from levit_np.benchmark.machine import load_average
from levit_np.commands.common import from_zero, whole
from levit_np.images.decoding import open_image
from levit_np.images.preprocessing import normalise, preprocess, preprocessing_named
from levit_np.training.augmentation import one_image
from levit_np.training.augmentation.crop import random_resized_crop
from levit_np.training.augmentation.erasing import random_erasing
from levit_np.training.augmentation.mixing import Mixture, mix_pair
from levit_np.training.augmentation.rand_augment import rand_augment
from levit_np.training.data import open_source
from levit_np.training.data.loader import Loader
from levit_np.training.data.pack import pack
from levit_np.training.recipe import Recipe

SIZE, CLASSES = (224, 224), 4
PREPROCESSING, RECIPE = preprocessing_named("authors", SIZE, 3), Recipe()


def photograph(seed: int) -> bytes:
    """A JPEG file of shapes of many sizes and textures."""
    random = np.random.default_rng(seed)
    pixels = np.zeros((375, 500, 3), np.float32)
    for side, strength in ((3, 70), (12, 40), (50, 25), (190, 28), (375, 18)):
        coarse = random.uniform(0, 255, (side, side, 3)).astype(np.uint8)
        grown = Image.fromarray(coarse).resize((500, 375), Image.Resampling.BICUBIC)
        pixels += (np.asarray(grown) - 127.5) * (strength / 90)
    file = BytesIO()
    Image.fromarray(np.clip(pixels + 127.5, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def parts(source, rounds: int) -> dict[str, float]:
    """Milliseconds of processor time per image, for each operation alone and for all."""
    count = len(source)
    encoded = [source.read(index) for index in range(count)]
    images = [open_image(data) for data in encoded]
    cropped = [random_resized_crop(image, SIZE, RECIPE.crop_scale, RECIPE.crop_ratio, np.random.default_rng(i))
               for i, image in enumerate(images)]
    normal = [normalise(np.asarray(image), PREPROCESSING) for image in cropped]
    pair, targets = np.stack(normal[:2]), np.ones((2, 1000), np.float32)
    fill = one_image.fill_colour(PREPROCESSING)
    jobs = {
        "read": lambda i, random: source.read(i),
        "decode": lambda i, random: open_image(encoded[i]),
        "crop and resize": lambda i, random: random_resized_crop(images[i], SIZE, (0.08, 1), (3 / 4, 4 / 3), random),
        "RandAugment": lambda i, random: rand_augment(cropped[i], 2, 9.0, 0.5, fill, random),
        "normalise": lambda i, random: normalise(np.asarray(cropped[i]), PREPROCESSING),
        "erase": lambda i, random: random_erasing(normal[i], 0.25, random),
        "mix": lambda i, random: i % 2 or mix_pair(pair, targets, Mixture(0.5, None)),
        "all but mix": lambda i, random: one_image.augment(open_image(source.read(i)), RECIPE, PREPROCESSING, random),
        "evaluation": lambda i, random: preprocess(source.read(i), PREPROCESSING),
    }
    times = {name: [] for name in jobs}
    for turn in range(rounds):
        for name, job in jobs.items():
            start = time.process_time()
            for i in range(count):
                job(i, np.random.default_rng([turn, i]))
            times[name].append((time.process_time() - start) / count * 1000)
    return {name: round(median(values), 3) for name, values in times.items()}


def speed(source, workers: int, batch: int, rounds: int) -> float:
    """Images per second of the running loader: the median of some epochs."""
    with Loader(source, RECIPE, image_size=SIZE, in_channels=3, batch=batch, seed=0, workers=workers) as loader:
        next(loader.epoch(0))   # wait until the processes have started
        rates = []
        for epoch in range(rounds):
            start = time.perf_counter()
            count = sum(len(step.images) for step in loader.epoch(epoch))
            rates.append(count / (time.perf_counter() - start))
    return round(median(rates), 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=whole, default=512, help="(default: %(default)s)")
    parser.add_argument("--batch", type=whole, default=64, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=whole, default=5, help="rounds, whose median counts (default: %(default)s)")
    parser.add_argument("--workers", type=from_zero, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    add_results(parser)
    arguments = parser.parse_args()
    machine = this_machine(("numpy",))
    machine["versions"]["pillow"] = pillow
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "train")
        for label in range(CLASSES):
            (root / str(label)).mkdir(parents=True)
        for number in range(arguments.images):
            (root / str(number % CLASSES) / f"{number}.jpg").write_bytes(photograph(number))
        sources = {"folder": open_source(root)}
        pack(sources["folder"], Path(folder, "train.h5"))
        sources["packed"] = open_source(Path(folder, "train.h5"))
        size = sum(len(sources["packed"].read(i)) for i in range(arguments.images)) / arguments.images
        print(f"{machine['processor']}, load {machine['load_average']}; {arguments.images} images, "
              f"{size / 1000:.0f} KB each")
        milliseconds = parts(sources["packed"], arguments.rounds)
        for name, value in milliseconds.items():
            print(f"  {name:<16} {value:7.2f} ms of processor time an image")
        rates = {name: {str(count): speed(source, count, arguments.batch, arguments.rounds)
                        for count in arguments.workers} for name, source in sources.items()}
    for name, by_workers in rates.items():
        for count, rate in by_workers.items():
            print(f"  {name:<7} {count} workers {rate:8.1f} images/s")
    machine["load_average_after"] = load_average()
    write_json(result_path(arguments.results, "data", machine), {
        "machine": machine, "images": arguments.images, "jpeg_bytes": round(size), "batch": arguments.batch,
        "rounds": arguments.rounds, "milliseconds": milliseconds, "images_per_second": rates})


if __name__ == "__main__":
    run(main)
