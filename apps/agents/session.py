"""A run under way: its work in a task of its own, its events as a stream. A reader that stops ends the work."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence

from apps.agents.progress import ApprovalRequired, Emit, Event, Progress, RunEnded
from apps.core.agent_runs import AgentRun, RunStore
from apps.core.calls import CANCELLED, DISCONNECTED, SHUT_DOWN
from apps.core.errors import AppError, Conflict, InternalError, InvalidValue
from apps.core.messages import Message
from apps.models.metering import outcome_of

MOST_WAITING = 256
SAVE_SECONDS = 5.0

Work = Callable[[Emit], Awaitable[RunEnded]]
log = logging.getLogger(__name__)


class CancelledByRequest(Conflict):
    """The run was cancelled by a request."""

    outcome = CANCELLED

    def __init__(self, run_id: str) -> None:
        super().__init__("The run was cancelled", details={"run": run_id})


class ShutDown(Conflict):
    """The service ended before the run did."""

    outcome = SHUT_DOWN

    def __init__(self) -> None:
        super().__init__("The service shut down before the end")


class RunSession:
    """``work`` does it all and tells its events; `events` may be read once, and the run begins with the reading.

    ``claim`` makes a run that waited one that goes on, or raises where another process has it; without it the run
    is new. ``sessions`` are those under way, by run.
    """

    def __init__(
        self,
        progress: Progress,
        store: RunStore,
        work: Work,
        sessions: "dict[str, RunSession]",
        claim: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.progress = progress
        self._store = store
        self._work = work
        self._sessions = sessions
        self._claim = claim
        self._opening: asyncio.Task[None] | None = None
        self._is_ours = claim is None
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._room = asyncio.Semaphore(MOST_WAITING)
        self._task: asyncio.Task[RunEnded] | None = None

    @property
    def run(self) -> AgentRun:
        return self.progress.run

    async def events(self) -> AsyncGenerator[Event, None]:
        """Ends with RunEnded, or raises an error of the tree. The record is in the store before either."""
        outcome: BaseException | None = None
        try:
            self._opening = asyncio.create_task(self._open())
            await asyncio.shield(self._opening)
            self._task = asyncio.create_task(self._whole(), name=f"agent-run-{self.run.id}")
            waits: ApprovalRequired | None = None
            while (event := await self._events.get()) is not None:
                self._room.release()
                if isinstance(event, ApprovalRequired):
                    waits = event  # sent when the record is there: a decision may come at once
                else:
                    yield event
            ended = await self._task
            await self._save()
            if waits is not None:
                yield waits
            yield ended
        except AppError as error:
            outcome = error
            raise
        except Exception as error:
            outcome = error
            log.exception("The run %s of the agent %s failed", self.run.id, self.run.agent)
            raise InternalError("The agent failed", details={"cause": type(error).__name__}) from error
        except BaseException as error:
            outcome = error
            raise
        finally:
            try:
                await self._end(outcome)
            finally:
                if self._is_ours:
                    self._sessions.pop(self.run.id, None)

    def cancel(self, outcome: str = CANCELLED) -> None:
        """End the run for good: the model's call and the tools under way are cancelled.

        ``outcome`` is theirs: CANCELLED or SHUT_DOWN.
        """
        self.progress.ended_by = outcome
        if self._task is not None:
            self._task.cancel()

    async def _open(self) -> None:
        """In a task of its own: a reader that leaves meanwhile must not leave it open whose the run is."""
        if self._claim is not None:
            await self._claim()
            self._is_ours = True
        self._sessions[self.run.id] = self
        if self._claim is None:
            await self._store.add(self.run)

    async def _emit(self, event: Event) -> None:
        """Waits where the reader is behind, so that a slow one costs no memory."""
        await self._room.acquire()
        self._events.put_nowait(event)

    async def _whole(self) -> RunEnded:
        """The work under its bound of time."""
        try:
            async with asyncio.timeout(self._seconds_left()) as limit:
                return await self._work(self._emit)
        except TimeoutError:
            if not limit.expired():
                raise
            raise self.progress.out_of_time() from None
        except asyncio.CancelledError:
            if self.progress.ended_by == CANCELLED:
                raise CancelledByRequest(self.run.id) from None
            if self.progress.ended_by == SHUT_DOWN:
                raise ShutDown from None
            raise
        finally:
            self._events.put_nowait(None)

    def _seconds_left(self) -> float:
        used = sum(float(step["seconds"]) for step in self.run.steps)
        return max(0.0, self.progress.limits.seconds - used)

    async def _end(self, outcome: BaseException | None) -> None:
        """Whatever happened: nothing runs on, and the record says how it ended."""
        if self._opening is not None:
            await asyncio.wait([self._opening])
        if not self._is_ours:
            return
        task = self._task
        if task is not None:
            self.progress.ended_by = self.progress.ended_by or _cut_off_by(outcome)
            task.cancel()
            task.add_done_callback(_seen)
            await asyncio.wait([task])
        if self.run.status == "paused" or self.run.ended_at is not None:
            return
        if self.progress.ended_by == CANCELLED:
            self.run.status = "cancelled"
        self.progress.failed(_as_error(outcome))
        if self.progress.ended_by == SHUT_DOWN:
            self.run.outcome = SHUT_DOWN
        elif not isinstance(outcome, Exception):
            self.run.outcome = _cut_off_by(outcome)
        await self._save_in_the_end()

    async def _save(self) -> None:
        """Raises Conflict where the run was cancelled; an answer that is there is emitted also without its record."""
        try:
            saved = await self._store.save(self.run)
        except AppError:
            if self.run.status != "done":
                # what waits and is not written down could never be decided: it ends here, as a failure
                self.run.status, self.run.pending, self.run.state = "running", [], ""
                raise
            log.exception("The run %s is done, and could not be written down", self.run.id)
            return
        if not saved:
            cancelled = CancelledByRequest(self.run.id)
            self.run.status = "cancelled"
            self.progress.failed(cancelled)
            await self._store.save(self.run)
            raise cancelled

    async def _save_in_the_end(self) -> None:
        """Also where this task is being cancelled: the record must not stay `running`."""
        saving = asyncio.ensure_future(self._store.save(self.run))
        try:
            async with asyncio.timeout(SAVE_SECONDS):
                await asyncio.shield(saving)
        except Exception:
            log.exception("The end of the run %s could not be written down", self.run.id)


def _seen(task: asyncio.Task[RunEnded]) -> None:
    """Take the error of a task without waiters, which asyncio would complain about."""
    if not task.cancelled():
        task.exception()


def _cut_off_by(outcome: BaseException | None) -> str:
    return DISCONNECTED if outcome is None or isinstance(outcome, Exception) else outcome_of(outcome)


def _as_error(outcome: BaseException | None) -> AppError:
    if isinstance(outcome, AppError):
        return outcome
    if isinstance(outcome, Exception):
        return InternalError("The agent failed", details={"cause": type(outcome).__name__})
    if _cut_off_by(outcome) == SHUT_DOWN:
        return ShutDown()
    return Conflict("The caller left before the end")


def check_messages(messages: Sequence[Message]) -> None:
    """Raise InvalidValue for a conversation that an agent cannot answer."""
    if not any(message.role == "user" for message in messages) or messages[-1].role != "user":
        raise InvalidValue("The conversation must end with a message of the user", field="messages")
    for i, message in enumerate(messages):
        if message.role == "tool" or message.tool_calls:
            raise InvalidValue("An agent calls its own tools; results of others are not taken", field=f"messages.{i}")
        if not isinstance(message.content, str):
            raise InvalidValue("An agent takes text only", field=f"messages.{i}.content")
