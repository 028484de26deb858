"""What the tests of OpenPCDet's optimisation share."""

import logging

import pytest
from mmengine.logging import MMLogger


@pytest.fixture
def log(caplog):
    """Messages of MMEngine's current logger."""
    logger = MMLogger.get_instance('openpcdet', log_level='INFO')
    logger.addHandler(caplog.handler)
    caplog.set_level(logging.INFO)
    yield caplog
    logger.removeHandler(caplog.handler)
