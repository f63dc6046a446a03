"""The controller dies at a schedule's time."""

import time

from fault.rows import rows
from fault.schedule_cell import ScheduleCell, next_minute, seconds_until

LEFT_SECONDS = 3


@rows("controller-sigkill", Schedule=("Made",))
def test_controller_dies_between_the_child_and_the_status(timed: ScheduleCell) -> None:
    timed.begin()
    timed.refuse_status()
    minute = timed.until_child()
    timed.controller.kill()
    timed.stage.front.answer()
    timed.controller.start()
    timed.fault_is_over()
    timed.ends(minute)


@rows("controller-away", Schedule=("Due",))
def test_controller_is_dead_at_the_time_of_a_run(timed: ScheduleCell) -> None:
    timed.begin()
    if seconds_until(next_minute()) < LEFT_SECONDS:  # the run of this minute may be made by now
        timed.until_child()
    minute = next_minute()
    timed.controller.kill()
    time.sleep(seconds_until(minute) + 1)
    timed.controller.start()
    timed.fault_is_over()
    timed.ends(minute)


@rows("api-away", Schedule=("Made",))
def test_api_server_is_away_between_the_child_and_the_status(timed: ScheduleCell) -> None:
    timed.begin()
    timed.refuse_status()
    minute = timed.until_child()
    timed.stage.front.hang_up()
    time.sleep(6)
    timed.stage.front.answer()
    timed.controller.start()  # as a kubelet does: it ends when it could not renew its lead
    timed.fault_is_over()
    timed.ends(minute)
