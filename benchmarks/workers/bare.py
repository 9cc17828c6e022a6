"""The bare loop in processes of its own: they are told what to make, and it is timed."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from typing import IO, Self

from benchmarks.workers.loads import Load, uniform
from jobs.devices import Slot


class BareLoop:
    """The loop over a load, in a process with the pipeline in it."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdin
        assert process.stdout
        self._in: IO[str] = process.stdin
        self._out: IO[str] = process.stdout

    def seconds(self, load: Load, count: int) -> float:
        """How long it takes to have ``count`` pictures on the host."""
        print(json.dumps({"load": load.as_json(), "count": count}), file=self._in, flush=True)
        answer = self._out.readline()
        if not answer:
            raise RuntimeError("the bare loop has ended: see above")
        return float(json.loads(answer))


class BareLoops:
    """As many loops as the worker has processes, which divide the pictures among them."""

    def __init__(self, loops: Sequence[BareLoop]) -> None:
        self._loops = loops

    def seconds(self, load: Load, count: int) -> float:
        """How long it takes until all have their part of ``count`` pictures on the host."""
        share, more = divmod(count, len(self._loops))
        counts = [share + (number < more) for number in range(len(self._loops))]
        with ThreadPoolExecutor(len(self._loops)) as threads:
            spent = threads.map(lambda loop, n: loop.seconds(load, n), self._loops, counts)
            return max(list[float](spent))

    @classmethod
    @contextmanager
    def started(cls, slots: Sequence[Slot], environment: Mapping[str, str]) -> Iterator[Self]:
        """While the block runs, one for each slot. The first call of a load compiles it."""
        with ExitStack() as stack:
            loops = []
            for slot in slots:
                process = subprocess.Popen(
                    [sys.executable, "-m", __name__],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**environment, **slot.environment},
                )
                stack.enter_context(process)
                stack.callback(process.kill)
                if slot.cores:
                    os.sched_setaffinity(process.pid, slot.cores)
                loops.append(BareLoop(process))
            yield cls(loops)


def main() -> None:
    """One line of JSON for each line of it, until there is no more."""
    from benchmarks.workers.pipeline import Pipeline  # noqa: PLC0415 (torch, in this process only)

    answers = sys.stdout
    sys.stdout = sys.stderr  # libraries print what they like
    loaded: dict[str, Pipeline] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        load = Load.from_json(asked["load"])
        if asked["load"] not in loaded:
            loaded[asked["load"]] = pipeline = Pipeline(load)
            pipeline.warm(load.sizes[:1])
        pipeline = loaded[asked["load"]]
        pictures = uniform(load, asked["count"])
        started = time.perf_counter()
        for start in range(0, len(pictures), load.batch):
            pipeline.make(pictures[start : start + load.batch])
        print(time.perf_counter() - started, file=answers, flush=True)


if __name__ == "__main__":
    main()
