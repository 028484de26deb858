"""The world of one scene: an ego car on a gentle curve, moving boxes of ten classes, walls and poles.

Letters: T moments, M solids (the K objects first, then the clutter). All in the global frame: metres, radians,
seconds from the start of the scene, ground at z = 0. Everything moves at constant velocity except the ego,
which keeps its speed and yaw rate.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bevfusion_plugin.synthetic_nuscenes.catalog import CLASSES
from bevfusion_plugin.synthetic_nuscenes.settings import Settings, random_stream

_EGO_SIZE = (4.8, 2.0, 1.9)
_EGO_CENTER_AHEAD = 1.3  # the ego frame sits at the rear axle
_EGO_MARGIN = 1.5
_MARGIN = 0.4
_COLLISION_STEP = 0.05  # 20 Hz, the fastest the lidar turns
MAP_BORDER = 110.0
ROAD_HALF_WIDTH = 7.0
_PLACEMENT_TRIES = 5000
_FACE_ANYWHERE = {'traffic_cone', 'pedestrian'}


@dataclass(frozen=True)
class Ego:
    """A car that drives an arc: start (x, y), start yaw, speed in m/s, yaw rate in rad/s (never zero)."""

    start: tuple[float, float]
    yaw: float
    speed: float
    yaw_rate: float

    @property
    def radius(self) -> float:
        """Radius of the arc in metres, negative for a right turn."""
        return self.speed / self.yaw_rate

    @property
    def turn_center(self) -> np.ndarray:
        """(2,) centre of the arc."""
        left = np.array([-np.sin(self.yaw), np.cos(self.yaw)])
        return np.array(self.start) + self.radius * left

    def pose(self, time: np.ndarray | float) -> tuple[np.ndarray, np.ndarray]:
        """(..., 2) position and (...,) yaw at ``time`` seconds."""
        yaw = self.yaw + self.yaw_rate * np.asarray(time, dtype=float)
        position = self.turn_center + self.radius * np.stack([np.sin(yaw), -np.cos(yaw)], axis=-1)
        return position, yaw

    def lateral(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """Distance in metres of points from the line the ego drives on (both ways continued)."""
        center = self.turn_center.astype(x.dtype)
        return np.abs(np.hypot(x - center[0], y - center[1]) - x.dtype.type(abs(self.radius)))


@dataclass(frozen=True)
class World:
    """One scene.

    Attributes:
        ego: The car that carries the sensors.
        labels: (K,) index into ``CLASSES``.
        start_centers: (M, 3) gravity centres at time 0.
        sizes: (M, 3) length, width, height.
        yaws: (M,) constant headings.
        velocities: (M, 2) constant; zero for the clutter.
        paints: (M, 2, 3) two colours each, 0 to 255.
        sun: (3,) unit vector toward the sun.
    """

    ego: Ego
    labels: np.ndarray
    start_centers: np.ndarray
    sizes: np.ndarray
    yaws: np.ndarray
    velocities: np.ndarray
    paints: np.ndarray
    sun: np.ndarray

    @property
    def num_objects(self) -> int:
        """K: the first K solids are annotated objects, the others walls and poles."""
        return len(self.labels)

    def centers(self, time: float) -> np.ndarray:
        """(M, 3) gravity centres at ``time`` seconds."""
        centers = self.start_centers.copy()
        centers[:, :2] += self.velocities * time
        return centers


def build_world(settings: Settings, scene: int, draw: int = 0) -> World:
    """A world for scene number ``scene``; every class is in it, and no two solids ever touch.

    Args:
        settings: Size and seed.
        scene: Index into ``SCENE_NAMES``.
        draw: Another number gives another world of the same kind.

    Raises:
        RuntimeError: The scene is so long that an object finds no free way through it.
    """
    random = random_stream(settings, scene, 0, draw)
    ego = _random_ego(random, settings.duration)
    crowd = _Crowd(ego, settings.duration)
    _add_clutter(crowd, random, settings.duration)
    num_clutter = len(crowd.sizes) - 1  # the ego is the first
    labels = []
    for label in sorted(range(len(CLASSES)), key=lambda label: -CLASSES[label].body.size[0]):
        for _ in range(round(CLASSES[label].count * (1 + ego.speed * settings.duration / 90))):
            _add_object(crowd, random, label, settings.duration)
            labels.append(label)
    objects_first = np.r_[1 + num_clutter : len(crowd.sizes), 1 : 1 + num_clutter]
    paints = [_random_paint(random, label) for label in labels]
    paints += [_clutter_paint(random) for _ in range(num_clutter)]
    return World(
        ego,
        np.array(labels),
        np.array(crowd.centers)[objects_first],
        np.array(crowd.sizes)[objects_first],
        np.array(crowd.yaws)[objects_first],
        np.array(crowd.velocities)[objects_first],
        np.array(paints),
        _random_sun(random),
    )


def _random_ego(random: np.random.Generator, duration: float) -> Ego:
    yaw, speed = random.uniform(-np.pi, np.pi), random.uniform(3.0, 9.0)
    yaw_rate = random.uniform(0.005, 0.05) * random.choice([-1, 1])
    path, _ = Ego((0.0, 0.0), yaw, speed, yaw_rate).pose(np.linspace(0, duration, 32))
    start = MAP_BORDER - path.min(axis=0)  # map coordinates are not negative
    return Ego((float(start[0]), float(start[1])), yaw, speed, yaw_rate)


def _random_sun(random: np.random.Generator) -> np.ndarray:
    azimuth, elevation = random.uniform(-np.pi, np.pi), random.uniform(0.6, 1.1)
    return np.array([np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)])


class _Crowd:
    """Solids placed so far (the ego is the first), and the test whether another one fits between them."""

    def __init__(self, ego: Ego, duration: float) -> None:
        self.ego = ego
        self.times = np.arange(0, duration + _COLLISION_STEP, _COLLISION_STEP)
        position, yaw = ego.pose(self.times)
        ahead = np.stack([np.cos(yaw), np.sin(yaw)], axis=-1)
        self._tracks = [position + _EGO_CENTER_AHEAD * ahead]  # each (T, 2)
        self._track_yaws: list[np.ndarray | float] = [yaw]
        self._footprints = [(_EGO_SIZE[0] + 2 * _EGO_MARGIN, _EGO_SIZE[1] + 2 * _EGO_MARGIN)]
        self.centers, self.sizes = [np.zeros(3)], [np.array(_EGO_SIZE)]
        self.yaws, self.velocities = [0.0], [np.zeros(2)]

    def try_add(self, center: np.ndarray, size: np.ndarray, yaw: float, velocity: np.ndarray) -> bool:
        """Place a solid with its gravity centre above ``center`` (2,) at time 0, unless it ever hits another one."""
        track = center + velocity * self.times[:, None]
        footprint = (size[0] + _MARGIN, size[1] + _MARGIN)
        for other, other_yaw, other_footprint in zip(self._tracks, self._track_yaws, self._footprints):
            if rectangles_overlap(track - other, yaw, footprint, other_yaw, other_footprint).any():
                return False
        self._tracks.append(track)
        self._track_yaws.append(yaw)
        self._footprints.append(footprint)
        self.centers.append(np.array([center[0], center[1], size[2] / 2]))
        self.sizes.append(size)
        self.yaws.append(yaw)
        self.velocities.append(velocity)
        return True


def rectangles_overlap(
    offset: np.ndarray, yaw_a: np.ndarray | float, size_a: tuple[float, float], yaw_b: np.ndarray | float, size_b: tuple[float, float]
) -> np.ndarray:
    """(T,) whether rectangles a and b overlap, by the separating axes of both.

    Args:
        offset: (T, 2) centre of a minus centre of b, metres.
        yaw_a: Heading of a, radians; a number or (T,).
        size_a: Length and width of a.
        yaw_b: Heading of b.
        size_b: Length and width of b.
    """
    near = np.hypot(*offset.T) < (np.hypot(*size_a) + np.hypot(*size_b)) / 2
    if not near.any():
        return near
    turn = np.asarray(yaw_a) - np.asarray(yaw_b)
    cos, sin = np.abs(np.cos(turn)), np.abs(np.sin(turn))
    for yaw, (own_l, own_w), (other_l, other_w) in ((yaw_a, size_a, size_b), (yaw_b, size_b, size_a)):
        along = offset[:, 0] * np.cos(yaw) + offset[:, 1] * np.sin(yaw)
        across = offset[:, 1] * np.cos(yaw) - offset[:, 0] * np.sin(yaw)
        near = near & (np.abs(along) < (own_l + other_l * cos + other_w * sin) / 2)
        near = near & (np.abs(across) < (own_w + other_l * sin + other_w * cos) / 2)
    return near


def _add_clutter(crowd: _Crowd, random: np.random.Generator, duration: float) -> None:
    """Walls behind the pavements and poles on them, on both sides of the road."""
    ego = crowd.ego
    for step, lateral, share, low, high in (
        (18.0, (24.0, 34.0), 0.5, (8.0, 1.0, 3.0), (16.0, 6.0, 9.0)),
        (14.0, (8.0, 11.0), 0.5, (0.2, 0.2, 4.0), (0.35, 0.35, 7.0)),
    ):
        for distance in np.arange(-50.0, 50.0 + ego.speed * duration, step):
            for side in (-1, 1):
                keep, offset, size = random.random() < share, random.uniform(*lateral), random.uniform(low, high)
                along = distance + random.uniform(-3, 3)
                position, yaw = ego.pose(along / ego.speed)
                center = position + side * offset * np.array([-np.sin(yaw), np.cos(yaw)])
                if keep:
                    crowd.try_add(center, size, float(yaw), np.zeros(2))


def _add_object(crowd: _Crowd, random: np.random.Generator, label: int, duration: float) -> None:
    body, reach = CLASSES[label].body, CLASSES[label].reach
    for _ in range(_PLACEMENT_TRIES):
        size = np.array(body.size) * (1 + body.spread * np.clip(random.normal(size=3), -2.5, 2.5))
        speed = random.uniform(*body.speed) if random.random() < body.moving else 0.0
        moment = random.uniform(0, duration)  # when the object is at the drawn place beside the ego
        position, ego_yaw = crowd.ego.pose(moment)
        bearing, distance = random.uniform(-np.pi, np.pi), random.uniform(5.0 + body.size[0], reach)
        yaw = _random_heading(random, CLASSES[label].name, float(ego_yaw))
        velocity = speed * np.array([np.cos(yaw), np.sin(yaw)])
        center = position + distance * np.array([np.cos(bearing), np.sin(bearing)]) - velocity * moment
        if crowd.try_add(center, size, yaw, velocity):
            return
    raise RuntimeError(
        f'no free place for a {CLASSES[label].name} in {_PLACEMENT_TRIES} tries; use fewer samples_per_scene or another seed'
    )


def _random_heading(random: np.random.Generator, name: str, road_yaw: float) -> float:
    """Along the road either way, sometimes across it; people and cones anyhow."""
    anyhow, along = random.uniform(-np.pi, np.pi), random.normal(0, 0.15)
    quarter = random.choice([0, 2, 0, 2, 0, 2, 1, 3]) * np.pi / 2
    yaw = anyhow if name in _FACE_ANYWHERE else road_yaw + quarter + along
    return float((yaw + np.pi) % (2 * np.pi) - np.pi)


def _random_paint(random: np.random.Generator, label: int) -> np.ndarray:
    paint = CLASSES[label].paint
    jitter = random.normal(0, 12, (2, 3)) + random.normal(0, 12)
    return np.clip(np.array([paint.first, paint.second]) + jitter, 0, 255)


def _clutter_paint(random: np.random.Generator) -> np.ndarray:
    grey = random.uniform(80, 170)
    return np.clip(np.array([[grey, grey - 12, grey - 24], [grey - 20, grey - 30, grey - 40]]), 0, 255)
