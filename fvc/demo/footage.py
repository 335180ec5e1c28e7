"""What a camera saw: a moving, shaking view over a scene, with sensor noise."""

from fvc.demo.motion import step_of, tremble, wander
from fvc.demo.painting import Canvas, add_noise, sensor_noise, stretch
from fvc.demo.scenes import Scene
from fvc.demo.specifications import Footage

# A scene has three times the frame's pixels along each side, and the camera sees two of them.
SCENE_SCALE, VIEW_SCALE = 3, 2
# A manipulation may show up to twice as much footage as the clip is long.
SPARE = 2


class Camera:
    """The untouched frames of one footage, each by its number, in any order."""

    def __init__(self, footage: Footage) -> None:
        self.footage = footage
        generator = footage.generator("camera")
        room = (footage.width, footage.height)
        num_steps = step_of(SPARE * footage.num_frames, footage.fps) + 1
        shake = tremble(num_steps, max(room) // 110 + 1, generator)
        self.path = (wander(num_steps, room, generator) + shake).clip(0, room)
        self.noise = sensor_noise(int(generator.integers(3, 8)), generator)
        self.scene = Scene(
            footage,
            height=SCENE_SCALE * footage.height,
            width=SCENE_SCALE * footage.width,
            num_steps=num_steps,
        )

    def frame(self, number: int) -> Canvas:
        """Take one frame.

        Args:
            number: In [0, 2 x num_frames): more was filmed than is shown.
        """
        step = step_of(number, self.footage.fps)
        left, top = self.path[step].tolist()
        height, width = self.footage.height, self.footage.width
        size = {"height": VIEW_SCALE * height, "width": VIEW_SCALE * width}
        view = self.scene.view(step, left, top, **size)
        return add_noise(stretch(view, height, width), self.noise, number)
