"""What a run calls as it proceeds. Light, so that the command line can subclass it without loading pyarrow."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fer_deploy.score.part import PartResult
    from fer_deploy.score.plan import ScorePlan


class ScoreWatcher:
    """Shows nothing. Override the methods to show how a run proceeds."""

    def planned(self, plan: ScorePlan, *, done: int) -> None:
        """The plan is made, and `done` of its parts have a file already."""

    def part(self, result: PartResult) -> None:
        """A part has its file, or a problem."""

    def message(self, text: str) -> None:
        """A line to show."""
