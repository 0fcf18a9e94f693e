"""Many runs, some side by side: started in order, each in a place of its own, stopped together."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, field

from harness.errors import HarnessError
from harness.launch.board import Board
from harness.launch.devices import Place
from harness.launch.local import LaunchOptions, run_local
from harness.launch.process import POLL_SECONDS, StopRequests
from harness.launch.warm import WarmProcess
from harness.record import RunRecord
from harness.spec import RunSpec
from harness.store.runs import Store

After = Callable[[RunRecord], None]


@dataclass(slots=True)
class Outcomes:
    """What became of the runs, by run id. A run that is in neither was not started."""

    records: dict[str, RunRecord] = field(default_factory=dict)
    refusals: dict[str, HarnessError] = field(default_factory=dict)
    interrupted: bool = False
    not_started: int = 0

    @property
    def failed(self) -> bool:
        return any(record.status == "failed" for record in self.records.values())

    @property
    def refusal_code(self) -> int:
        """The exit code of the gravest refusal; 0 where there is none."""
        return max((error.exit_code for error in self.refusals.values()), default=0)


def run_all(
    specs: Sequence[RunSpec],
    store: Store,
    options: LaunchOptions,
    places: Sequence[Place],
    board: Board,
    after: After | None = None,
) -> Outcomes:
    """Run every spec, one at a time in each place. A failed run does not end the others.

    Ctrl-C asks all running ones to stop, and no more are started. What a board raises (its reader
    went away) stops all runs and comes out of here. `after` is given each record as its run ends.
    """
    grid = _Grid(specs, store, options, board, after)
    with board, StopRequests() as requests, ThreadPoolExecutor(len(places)) as pool:
        workers = [pool.submit(grid.work, place, requests) for place in places[: len(specs)]]
        try:
            pending = set(workers)
            while pending:
                # With a time limit: a signal may reach another thread, and this one must notice.
                ended, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for worker in ended:
                    worker.result()
        except BaseException:
            requests.count += 1  # the others end before the pool is left
            raise
    grid.outcomes.not_started = len(grid.waiting)
    grid.outcomes.interrupted |= requests.count > 0
    return grid.outcomes


class _Grid:
    def __init__(
        self,
        specs: Sequence[RunSpec],
        store: Store,
        options: LaunchOptions,
        board: Board,
        after: After | None,
    ) -> None:
        self.waiting = deque(specs)
        self.outcomes = Outcomes()
        self._store = store
        self._options = options
        self._board = board
        self._after = after
        self._lock = threading.Lock()

    def work(self, place: Place, requests: StopRequests) -> None:
        """Take up one waiting run after the other until there is none, or a stop is asked for."""
        options = dataclasses.replace(self._options, environment={**self._options.environment, **place})
        with contextlib.ExitStack() as stack:
            if options.warm:
                parent = stack.enter_context(WarmProcess(options.child_environment()))
                options = dataclasses.replace(options, parent=parent)
            while (spec := self._next(requests)) is not None:
                self._run(spec, options, requests)

    def _next(self, requests: StopRequests) -> RunSpec | None:
        with self._lock:
            if requests.count or self.outcomes.interrupted or not self.waiting:
                return None
            return self.waiting.popleft()

    def _run(self, spec: RunSpec, options: LaunchOptions, requests: StopRequests) -> None:
        record: RunRecord | None = None
        refusal: HarnessError | None = None
        try:
            with self._board.follow(spec) as on_event:
                record = run_local(spec, self._store, options, on_event, requests)
        except KeyboardInterrupt:  # stopped too late to be stopped, or before it began
            record = self._store.record(spec.run_id) if self._store.state(spec.run_id) == "ok" else None
            self.outcomes.interrupted = True
        except HarnessError as error:
            refusal = error
        with self._lock:
            if record is not None:
                self.outcomes.records[spec.run_id] = record
                self.outcomes.interrupted |= record.status == "interrupted"
            if refusal is not None:
                self.outcomes.refusals[spec.run_id] = refusal
        if record is not None and self._after is not None:
            self._after(record)
        self._board.ended(spec, record, refusal)
