"""The ten detection classes of the synthetic nuScenes: sizes, motion, how they look to lidar and camera.

Sizes are (length, width, height) in metres, speeds m/s, colours 8-bit RGB. ``truck`` and
``construction_vehicle`` take the same size, motion and reflectivity on purpose: only their paint differs, so
that a detector tells them apart with a camera or not at all.

Source: class means from the anchor sizes of the public nuScenes detection configs, rounded (a truck is
6.74 x 2.46 x 2.73, a construction vehicle 6.38 x 2.73 x 3.13; theirs here is between the two). Spreads are
rounded to what keeps neighbouring classes as separable as they are in nuScenes. Category, attribute and
visibility names: the nuScenes schema.
"""

from __future__ import annotations

from dataclasses import dataclass

RGB = tuple[int, int, int]

IMAGE_ONLY_PAIR = ('truck', 'construction_vehicle')

CATEGORIES = (
    'human.pedestrian.adult',
    'human.pedestrian.child',
    'human.pedestrian.wheelchair',
    'human.pedestrian.stroller',
    'human.pedestrian.personal_mobility',
    'human.pedestrian.police_officer',
    'human.pedestrian.construction_worker',
    'animal',
    'vehicle.car',
    'vehicle.motorcycle',
    'vehicle.bicycle',
    'vehicle.bus.bendy',
    'vehicle.bus.rigid',
    'vehicle.truck',
    'vehicle.construction',
    'vehicle.emergency.ambulance',
    'vehicle.emergency.police',
    'vehicle.trailer',
    'movable_object.barrier',
    'movable_object.trafficcone',
    'movable_object.pushable_pullable',
    'movable_object.debris',
    'static_object.bicycle_rack',
)

ATTRIBUTES = (
    'vehicle.moving',
    'vehicle.stopped',
    'vehicle.parked',
    'cycle.with_rider',
    'cycle.without_rider',
    'pedestrian.sitting_lying_down',
    'pedestrian.standing',
    'pedestrian.moving',
)

VISIBILITY_LEVELS = ('v0-40', 'v40-60', 'v60-80', 'v80-100')
_VISIBILITY_EDGES = (0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Paint:
    """Two colours in stripes: ``axis`` is their normal in the box frame (x along the length, y to the left,
    z up), ``period`` the metres from one stripe to the next of the same colour."""

    first: RGB
    second: RGB
    axis: tuple[float, float, float]
    period: float


@dataclass(frozen=True)
class Body:
    """What a lidar can tell: mean ``size`` (l, w, h), ``spread`` (standard deviation / mean), ``moving`` share,
    ``speed`` range and diffuse ``reflectivity`` in [0, 1]."""

    size: tuple[float, float, float]
    spread: float
    moving: float
    speed: tuple[float, float]
    reflectivity: float


@dataclass(frozen=True)
class ObjectClass:
    """One detection class: ``count`` objects a scene, at most ``reach`` metres from where the ego passes
    (inside the distance to which nuScenes scores the class)."""

    name: str
    category: str
    body: Body
    paint: Paint
    count: int
    reach: float


_NEVER = (0.0, 0.0)
_TRUCK_BODY = Body((6.56, 2.6, 2.93), 0.1, 0.5, (2.0, 10.0), 0.35)

# In mmdet3d's order of labels.
CLASSES = (
    ObjectClass(
        'car',
        'vehicle.car',
        Body((4.61, 1.95, 1.72), 0.08, 0.5, (2.0, 12.0), 0.4),
        Paint((190, 30, 40), (60, 10, 15), (0, 0, 1), 1.0),
        10,
        30.0,
    ),
    ObjectClass('truck', 'vehicle.truck', _TRUCK_BODY, Paint((70, 110, 220), (235, 240, 250), (0, 0, 1), 1.4), 3, 30.0),
    ObjectClass(
        'trailer',
        'vehicle.trailer',
        Body((12.01, 2.87, 3.82), 0.1, 0.4, (2.0, 10.0), 0.45),
        Paint((200, 200, 205), (120, 120, 130), (1, 0, 0), 1.2),
        2,
        30.0,
    ),
    ObjectClass(
        'bus',
        'vehicle.bus.rigid',
        Body((11.19, 2.94, 3.47), 0.06, 0.5, (2.0, 10.0), 0.3),
        Paint((30, 150, 70), (20, 30, 40), (0, 0, 1), 2.4),
        2,
        30.0,
    ),
    ObjectClass('construction_vehicle', 'vehicle.construction', _TRUCK_BODY, Paint((245, 190, 20), (25, 25, 25), (1, 1, 1), 1.4), 3, 30.0),
    ObjectClass(
        'bicycle',
        'vehicle.bicycle',
        Body((1.68, 0.6, 1.27), 0.08, 0.6, (2.0, 6.0), 0.2),
        Paint((20, 200, 200), (90, 60, 40), (1, 0, 1), 0.5),
        4,
        24.0,
    ),
    ObjectClass(
        'motorcycle',
        'vehicle.motorcycle',
        Body((2.1, 0.76, 1.44), 0.08, 0.6, (2.0, 9.0), 0.3),
        Paint((120, 30, 150), (40, 40, 45), (1, 0, 0), 0.7),
        4,
        24.0,
    ),
    ObjectClass(
        'pedestrian',
        'human.pedestrian.adult',
        Body((0.73, 0.66, 1.76), 0.08, 0.6, (0.6, 1.8), 0.25),
        Paint((235, 120, 160), (40, 50, 110), (0, 0, 1), 1.8),
        8,
        24.0,
    ),
    ObjectClass(
        'traffic_cone',
        'movable_object.trafficcone',
        Body((0.4, 0.4, 1.06), 0.1, 0.0, _NEVER, 0.6),
        Paint((250, 110, 10), (245, 245, 240), (0, 0, 1), 0.5),
        6,
        18.0,
    ),
    ObjectClass(
        'barrier',
        'movable_object.barrier',
        Body((0.49, 2.49, 0.98), 0.1, 0.0, _NEVER, 0.5),
        Paint((215, 60, 50), (240, 240, 240), (0, 1, 1), 0.8),
        6,
        18.0,
    ),
)


def attribute_name(class_name: str, speed: float) -> str | None:
    """The nuScenes attribute of an object of ``class_name`` that drives or walks at ``speed`` m/s.

    Returns:
        None for cones and barriers, which have none. A bus that stands is at its stop (``vehicle.stopped``),
        every other vehicle that stands is parked, and a cycle that stands has no rider.
    """
    moves = speed > 0
    if class_name in ('traffic_cone', 'barrier'):
        return None
    if class_name == 'pedestrian':
        return 'pedestrian.moving' if moves else 'pedestrian.standing'
    if class_name in ('bicycle', 'motorcycle'):
        return 'cycle.with_rider' if moves else 'cycle.without_rider'
    if moves:
        return 'vehicle.moving'
    return 'vehicle.stopped' if class_name == 'bus' else 'vehicle.parked'


def visibility_token(fraction: float) -> str:
    """nuScenes' visibility token ('1' ... '4') for the share of an object that the six images show."""
    return str(1 + sum(fraction >= edge for edge in _VISIBILITY_EDGES))
