"""The bare loop as a process of its own: it is told what to make, and says how long that took."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Self

from benchmarks.workers.loads import Load, uniform


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
            raise RuntimeError("the bare loop has ended: its log says why")
        return float(json.loads(answer))

    @classmethod
    @contextmanager
    def started(cls, environment: Mapping[str, str], log: Path) -> Iterator[Self]:
        """While the block runs. The first call of a load loads it, and compiles."""
        with log.open("ab") as errors:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                # Nothing runs beside it that its threads should make room for when they wait.
                env={k: v for k, v in environment.items() if k != "OMP_WAIT_POLICY"},
            )
        with process:
            try:
                yield cls(process)
            finally:
                process.kill()


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
