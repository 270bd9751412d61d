"""A training process for test_workers.py that prepares batches forever: python loader_child.py FOLDER WORKERS"""

import sys
import time

from levit_np.training.data import open_source
from levit_np.training.data.loader import Loader
from levit_np.training.recipe import Recipe


def main():
    loader = Loader(open_source(sys.argv[1]), Recipe(), image_size=(64, 64), in_channels=3, batch=4, seed=0,
                    workers=int(sys.argv[2]))
    with loader:
        for epoch in range(10**6):
            for batch in loader.epoch(epoch):
                print("step", flush=True)
                time.sleep(0.01)


if __name__ == "__main__" or "unguarded" in sys.argv:
    main()
