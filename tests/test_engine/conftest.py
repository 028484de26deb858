"""What the tests of the engine share."""

import itertools
import logging

import pytest
from mmengine.logging import MMLogger

LOGGERS = itertools.count()


@pytest.fixture
def log(caplog):
    """Messages of MMEngine's current logger: the one made last, so each test makes its own."""
    logger = MMLogger.get_instance(f'engine_{next(LOGGERS)}', log_level='INFO')
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)
