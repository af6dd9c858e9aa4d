"""A race of one in the calling process: for a user's own method, which is not sent to another one."""

from __future__ import annotations

from memprof.child import CellError
from memprof.device import get_device
from memprof.guard import cell_errors, read_text_of
from memprof.race.ask import Answer, Race, Result, results
from memprof.race.bounds import abilities
from memprof.race.course import race


def race_here(alone: Race) -> Result:
    """Time the only scenario of a race; raises `CellError` where that fails.

    What the device can do is not measured: on a CPU the copies would stay in this process's high-water mark.
    """
    (scenario,) = alone.scenarios
    assert scenario.device is not None
    with cell_errors():
        device = get_device(scenario.device)
        read_text_of(scenario)
        alone.rooms[scenario.id].check(device)
        known = abilities(device, scenario, measured=False)
        outcomes = race([scenario], device, alone.windows)
        device.reset()
    result = results([scenario], Answer(outcomes=outcomes, known=known))[scenario.id]
    if isinstance(result, CellError):
        raise result
    return result
