"""A cascade's original: what the camera saw, manipulated where it is a fake."""

import numpy as np

from fvc.demo.footage import Camera
from fvc.demo.manipulations import IN_SPACE, IN_TIME
from fvc.demo.painting import Canvas
from fvc.demo.specifications import Footage


class Original:
    """The frames of one original, each by its number, in any order."""

    def __init__(self, footage: Footage) -> None:
        self.camera = Camera(footage)
        self.order = np.arange(footage.num_frames)
        self.changes = []
        for name in footage.manipulations:
            generator = footage.generator(name)
            if name in IN_TIME:
                self.order = IN_TIME[name](footage.num_frames, generator)
            else:
                size = (footage.num_frames, footage.height, footage.width)
                self.changes.append(IN_SPACE[name](*size, generator))

    def frame(self, number: int) -> Canvas:
        """Give one frame, in [0, num_frames)."""
        frame = self.camera.frame(int(self.order[number]))
        for change in self.changes:
            frame = change(frame, number)
        return frame
