"""Number the frames of a video, give them times, and count those that are in the file but cannot be decoded.

A decoder reports a damaged frame with an error, without any output, or too late. Its packet, one for each frame, still
has the time at which the frame was to be shown: frames whose packets were passed over are lost. Where packets are
missing too, the gap in time shows how many frames were lost, provided that there are signs of damage; otherwise it is a
pause. Lost frames are counted, so that the numbers of later frames keep step with time.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import median

_JUMP_S = 10.0
"""Where clocks may restart, a longer gap is a restart and not a pause (ffmpeg's dts_delta_threshold)."""

_LONGEST_S = 7 * 24 * 3600.0
"""A later time than this is damaged, if the container does not state when it ends."""

_SUSPECT_FRAMES = 64
"""For so many frames after a sign of damage a gap counts as a loss: decoders hold back at most 16, and threads 4."""

_STEPS = 25
"""The usual time between frames is the median of so many."""

_SPANS = 3
"""An error names at most this many places."""


@dataclass(frozen=True)
class StreamFacts:
    """What is known of a video stream before it is decoded.

    Attributes:
        tick_s: seconds per tick of its clock.
        frame_s: the usual time between two frames, in seconds.
        frames: the number of frames, where the container counts them; else None.
        end_s: the time on the stream's clock at which the container states that it ends; None if it does not.
        has_times: False for containers without presentation times (AVI), whose order says nothing.
        restarts: whether the clock may jump within a file (MPEG program and transport streams).
        steady: whether a gap in a constant frame rate is a loss even without signs of damage.
        fields: whether the two fields of a frame may be two packets (interlaced).
    """

    tick_s: float
    frame_s: float
    frames: int | None = None
    end_s: float | None = None
    has_times: bool = True
    restarts: bool = False
    steady: bool = False
    fields: bool = False


@dataclass
class _Packet:
    """A packet that went to the decoder and whose frame has not come out yet."""

    clock: int
    pts: int
    is_keyframe: bool


@dataclass
class Timeline:
    """Follows the packets that go into a decoder and the frames that come out.

    Call `packet` for each packet, `failed` when the decoder refuses one, `frame` for each frame, `finish` at the end.

    Attributes:
        facts: what is known of the stream.
        frames: how many frames came out.
        lost: how many frames of the file did not.
        leading: packets before the first keyframe, which cannot be decoded: the file was cut out of another.
        jumps: how often the clock jumped.
        patched: frames with a damaged part that the decoder filled.
        missing: how many frames the container states beyond the last packet; 0 if none or unknown.
        missing_s: how many seconds it states beyond the last frame, where it does not count frames.
    """

    facts: StreamFacts
    frames: int = 0
    lost: int = 0
    leading: int = 0
    jumps: int = 0
    patched: int = 0
    missing: int = 0
    missing_s: float = 0.0
    _spans: list[tuple[float, float]] = field(default_factory=list)
    _waiting: list[_Packet] = field(default_factory=list)
    _packets: int = 0
    _errors: int = 0
    _new_errors: int = 0
    _clock: int = 0
    _last_dts: int | None = None
    _frame_clock: int = 0
    _offset_s: float | None = None
    _time_s: float = 0.0
    _end_s: float = 0.0
    _other_end_s: float = 0.0
    _suspect: int = 0
    _last_pts: int | None = None
    _matched_pts: int | None = None
    _steps: deque[float] = field(default_factory=lambda: deque(maxlen=_STEPS))

    def packet(
        self,
        pts: int | None,
        dts: int | None = None,
        *,
        is_keyframe: bool = False,
        is_hidden: bool = False,
        is_damaged: bool = False,
    ) -> None:
        """A packet goes to the decoder.

        Args:
            pts: when its frame is to be shown, in ticks.
            dts: when it is to be decoded, in ticks: from packet to packet it grows, unless the clock restarts.
            is_keyframe: whether its frame can be decoded alone.
            is_hidden: whether it gives no frame by intent, such as before a cut by an edit list.
            is_damaged: whether there are signs that this packet is incomplete or that others before it are missing.
        """
        self._packets += 1
        if is_damaged:
            self._suspect = _SUSPECT_FRAMES
        if is_hidden or pts is None or not self.facts.has_times:
            return
        if dts is not None:
            step_s = 0.0 if self._last_dts is None else (dts - self._last_dts) * self.facts.tick_s
            if step_s < -self.facts.frame_s or (step_s > _JUMP_S and self._is_jump(dts)):
                self._clock += 1
            self._last_dts = dts
        self._waiting.append(_Packet(self._clock, pts, is_keyframe))

    def other_packet(self, end_s: float | None) -> None:
        """A packet of another stream, such as sound, which ends at this time on the container's clock."""
        self._other_end_s = max(self._other_end_s, end_s or 0.0)

    def failed(self) -> None:
        """The decoder refused a packet."""
        self._errors += 1
        self._new_errors += 1
        self._suspect = _SUSPECT_FRAMES

    def frame(self, pts: int | None, dts: int | None, *, is_patched: bool = False) -> tuple[int, float] | None:
        """A frame comes out of the decoder.

        Args:
            pts: when it is to be shown, in ticks.
            dts: when it was decoded, in ticks.
            is_patched: whether the decoder filled a damaged part of it with something plausible.

        Returns:
            Its number and its time in seconds, which never runs backwards; None if it came too late, after a later one.
        """
        is_late = pts is not None and self._last_pts is not None and pts < self._last_pts
        is_suspect = self._errors > 0 or self._suspect > 0
        if is_late and is_suspect and self.facts.has_times and self._clock == self._frame_clock:
            return None
        self._last_pts = pts
        stamp = pts if dts is None or (self.facts.has_times and pts is not None) else dts
        if pts is not None and dts is not None and abs(pts - dts) * self.facts.tick_s > _JUMP_S:
            stamp = dts  # no decoder holds a frame back for so long: its presentation time is damaged
        at_s = None if stamp is None else stamp * self.facts.tick_s
        clock, passed = self._pass_over(pts)
        if self._offset_s is None:
            passed = self._begin(passed, at_s)
        elif clock != self._frame_clock or (stamp is not None and self._leaps(stamp)):
            self.jumps += 1
            if at_s is not None:
                self._offset_s = self._time_s + self.facts.frame_s - at_s
        self._frame_clock = clock
        time_s = at_s + (self._offset_s or 0.0) if at_s is not None else self._time_s + self.facts.frame_s
        if not self.frames and at_s is None:
            time_s = 0.0
        if self.facts.restarts and self.frames and time_s <= self._time_s:  # two frames of one packet share its time
            time_s = self._time_s + self.facts.frame_s
        time_s = max(self._time_s, time_s) if self.frames else max(0.0, time_s)
        self._lose(self._lost_before(time_s, len(passed)), before_s=time_s)
        self._new_errors = 0
        self._suspect -= 1
        self._time_s = time_s
        if at_s is not None:
            self._end_s = at_s + self.facts.frame_s
        self.frames += 1
        self.patched += is_patched
        return self.frames - 1 + self.lost, time_s

    def finish(self) -> None:
        """The stream has ended: count what it lacks at its end."""
        rest = self._new_errors
        if self.facts.has_times:
            rest = len(self._waiting) if self._errors else 0
        if self.facts.frames is not None:
            self.missing = max(0, self.facts.frames - self._packets)
        elif self.facts.end_s is not None and not self.jumps and self.frames:
            missing_s = self.facts.end_s - max(self._end_s, self._other_end_s)
            self.missing_s = missing_s if missing_s > 0.2 + 2 * self.facts.frame_s else 0.0
        if self.missing:
            self.missing += rest  # what the decoder refused last belongs to the part that is cut off
        else:
            self._lose(rest, before_s=self._time_s + (rest + 1) * self.facts.frame_s)
        self._waiting.clear()

    def loss(self) -> str | None:
        """What could not be read, as part of a line; None if everything was."""
        total = self.frames + self.lost + self.missing
        parts = []
        if self.missing:
            if self.facts.has_times:
                parts.append(f"ends after {self.frames + self.lost:,} of {total:,} frames, at {self._time_s:.2f} s")
            else:  # without times in the container, the place where they are missing is unknown
                parts.append(f"{self.missing:,} of {total:,} frames are missing")
        elif self.missing_s:
            end_s = self._time_s + self.facts.frame_s
            parts.append(f"ends at {end_s:.2f} of {end_s + self.missing_s:.2f} s, after {total:,} frames")
        if self.lost:
            places = ", ".join(f"{start:.2f} to {end:.2f} s" for start, end in self._spans[:_SPANS])
            more = f" and {len(self._spans) - _SPANS:,} more places" if len(self._spans) > _SPANS else ""
            parts.append(f"{self.lost:,} of {total:,} frames cannot be decoded, at {places}{more}")
        return "; ".join(parts) or None

    def notes(self) -> list[str]:
        """Remarks on what was assumed."""
        notes = []
        if self.leading:
            count = _counted(self.leading, "frame")
            notes.append(f"cut out of another video: {count} before the first keyframe cannot be decoded")
        if self.jumps:
            times = "once" if self.jumps == 1 else f"{self.jumps:,} times"
            notes.append(f"its clock jumps {times}, as in joined files: times continue after the last frame before")
        if self.patched:
            notes.append(f"read as the decoder repaired them: {_counted(self.patched, 'frame')} with damaged parts")
        return notes

    def _lost_before(self, time_s: float, passed: int) -> int:
        """How many frames are lost between the last frame and one at `time_s`; `passed`: packets without a frame."""
        if not self.facts.has_times:
            return self._new_errors
        lost = passed if self._errors else 0
        if not self.frames:
            return lost
        step_s = median(self._steps) if len(self._steps) >= 3 else self.facts.frame_s
        gap = round((time_s - self._time_s) / step_s) - 1 if step_s > 0 else 0
        if gap < 1:
            self._steps.append(time_s - self._time_s)
        elif self._suspect > 0 or (self.facts.steady and self._is_regular(step_s)):
            lost = max(lost, gap)
        return lost

    def _leaps(self, stamp: int) -> bool:
        """Whether a frame is so far from the last one that its clock must have jumped."""
        step_s = stamp * self.facts.tick_s + (self._offset_s or 0.0) - self._time_s
        return step_s > _JUMP_S and self._is_jump(stamp)

    def _is_jump(self, dts: int) -> bool:
        """Whether a long step forward is a jump of the clock and not a pause of the video."""
        end_s = self.facts.end_s
        return self.facts.restarts or dts * self.facts.tick_s > (_LONGEST_S if end_s is None else end_s + _JUMP_S)

    def _is_regular(self, step_s: float) -> bool:
        """Whether the frames so far came at a constant rate, one every `step_s` seconds."""
        return len(self._steps) >= 3 and all(abs(step - step_s) <= 0.25 * step_s for step in self._steps)

    def _pass_over(self, pts: int | None) -> tuple[int, list[_Packet]]:
        """Take a frame's packet off the list, and those that should have given a frame before it; and its clock."""
        match = next((packet for packet in self._waiting if packet.pts == pts), None)
        if match is None:
            return self._frame_clock, []
        passed = []
        rest = []
        before: float | None = self._matched_pts if match.clock == self._frame_clock else None
        # The second field of the last frame is no loss, nor is what lay before that frame and was counted with it.
        before = (
            None if before is None else before + (0.75 * self.facts.frame_s / self.facts.tick_s) * self.facts.fields
        )
        for packet in self._waiting:
            if packet is match:
                continue
            if (packet.clock, packet.pts) > (match.clock, match.pts):
                rest.append(packet)
            elif before is None or packet.pts > before:
                passed.append(packet)
        self._waiting = rest
        self._matched_pts = match.pts
        return match.clock, passed

    def _begin(self, passed: list[_Packet], at_s: float | None) -> list[_Packet]:
        """Set the origin of time: the first keyframe, or the first frame if that was decoded without one.

        Packets before the first keyframe depend on frames that are not in the file.
        """
        keyframes = [packet.pts for packet in passed if packet.is_keyframe]
        origin = min(keyframes) if keyframes and self._errors else None
        lost = [] if origin is None else [packet for packet in passed if packet.pts >= origin]
        self.leading = len(passed) - len(lost)
        start_s = at_s if origin is None else origin * self.facts.tick_s
        self._offset_s = -(start_s or 0.0)
        return lost

    def _lose(self, count: int, *, before_s: float) -> None:
        if not count:
            return
        self.lost += count
        last_s = max(0.0, before_s - self.facts.frame_s)
        first_s = self._time_s + self.facts.frame_s if self.frames else 0.0
        self._spans.append((min(first_s, last_s), last_s))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
