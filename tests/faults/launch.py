"""Starts the real worker, sweeper and API with points at which orders are carried out.

``python -m tests.faults.launch worker --slot cpu-0`` runs `workers.main` as it is; what is added
are calls of `Post.reach` around functions of ours. Nothing is replaced by something that behaves
differently unless an order or a recipient asks for a fault; only pauses are shorter where a house
is in haste, and the later looks for orphans come within seconds in every house.
"""

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, event

from storage import objects, orphans
from storage.ledger import claim, fanout, finish, submit
from storage.objects import ObjectStore
from tests.faults import orders
from tests.faults.orders import Post

HASTE = "PRESSWORK_FAULTS_HASTE"
"""Set to ``on``: patience and backoff are shorter, as leases are."""

FENCING = "PRESSWORK_FAULTS_FENCING"
"""Set to ``off``: the test-only patch that shows that the suite can fail."""

POISON_KILLS = "poison: kills its process"
POISON_RAISES = "poison: raises"
"""Prompts that harm whoever makes them."""

PATIENCE_S = 3
BACKOFF_FIRST_S = 0.2

FENCES = (
    (
        re.compile(
            r"FROM claim JOIN jobs ON jobs\.claim_id = claim\.id\s+WHERE (.*) AND status = '.*'"
        ),
        r"FROM jobs WHERE \1",
    ),
    (re.compile(r" AND jobs\.claim_id = %\(claim_id\)s(::UUID)? AND jobs\.status = 'running'"), ""),
)
"""The conditions by which a holder's writes are fenced, and what is left without them."""

Function = Callable[..., Any]


def _wrap(owner: Any, name: str, around: Callable[[Function], Function]) -> None:
    """Replace a function of ``owner`` by one that calls it."""
    setattr(owner, name, around(getattr(owner, name)))


def _mark(
    owner: Any,
    name: str,
    *,
    before: Callable[[], None] = lambda: None,
    after: Callable[[], None] = lambda: None,
    with_result: bool = False,
) -> None:
    """Call ``before``, the function, and ``after``; ``with_result``: only if it gave something."""

    def around(function: Function) -> Function:
        def marked(*arguments: Any, **options: Any) -> Any:
            before()
            result = function(*arguments, **options)
            if result or not with_result:
                after()
            return result

        return marked

    _wrap(owner, name, around)


def _mark_commits(post: Post) -> Callable[[str], None]:
    """By what this gives, the next COMMIT of a thread becomes a point."""
    local = threading.local()

    @event.listens_for(Engine, "commit")
    def before_commit(_: Connection) -> None:
        point = vars(local).pop("point", None)
        if point:
            post.reach(point)

    def name_commit(point: str) -> None:
        local.point = point

    return name_commit


def _mark_ledger(post: Post) -> None:
    name_commit = _mark_commits(post)
    _mark(claim, "_claim", after=lambda: name_commit("claim-commit"), with_result=True)
    _mark(
        claim,
        "claim",
        before=lambda: post.reach("looking"),
        after=lambda: post.reach("claimed"),
        with_result=True,
    )
    _mark(finish, "_finish", before=lambda: name_commit("before-commit"))
    _mark(
        finish,
        "finish",
        before=lambda: post.reach("finishing"),
        after=lambda: post.reach("after-commit"),
    )


def _mark_model(post: Post) -> None:
    from workers.families.diffusion import Diffusion
    from workers.generation import BatchContext
    from workers.resident import Residency

    def around_step(step: Function) -> Function:
        def watched(self: BatchContext, done: int, total: int) -> None:
            if done:
                post.reach("denoising")
                _count_step(post)
            step(self, done, total)

        return watched

    def around_generate(generate: Function) -> Function:
        def watched(self: Diffusion, model: Any, items: Sequence[Any], context: Any) -> Any:
            _harm(post, items)
            yield from generate(self, model, items, context)

        return watched

    _mark(Residency, "get", after=lambda: post.reach("loaded"))
    _wrap(BatchContext, "step", around_step)
    _wrap(Diffusion, "generate", around_generate)


def _harm(post: Post, items: Sequence[Any]) -> None:
    """Do what a poisonous prompt or a weak device would do to the process."""
    import torch

    prompts = " ".join(item.request.prompt for item in items)
    if POISON_KILLS in prompts:
        os.kill(os.getpid(), signal.SIGKILL)
    if POISON_RAISES in prompts:
        raise RuntimeError("a poisonous prompt")
    memory_for = post.standing("generating").get("memory_for")
    if memory_for is not None and len(items) > memory_for:
        torch.empty(2**50)  # torch's own allocator refuses
    try:
        post.reach("device-assert")
    except orders.OrderedError:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered") from None


def _count_step(post: Post) -> None:
    """Append a byte per denoising step to the file that stands at ``steps``."""
    file = post.standing("steps").get("file")
    if file:
        with Path(file).open("ab") as stream:
            stream.write(b".")


def _switch_fencing_off() -> None:
    """Let a holder that has lost its lease go on and finish: what the suite must report."""
    from workers.pulse import Held

    Held.lost = property(lambda _: False, lambda _, __: None)  # type: ignore[assignment]

    @event.listens_for(Engine, "before_cursor_execute", retval=True)
    def unfenced(*given: Any) -> tuple[str, Any]:
        statement, parameters = given[2], given[3]
        for fence, without in FENCES:
            statement = fence.sub(without, statement)
        return statement, parameters


def _make_haste() -> None:
    from workers import writer

    writer.PATIENCE_S = PATIENCE_S
    finish.BACKOFF_FIRST_S = BACKOFF_FIRST_S


def _run_worker(post: Post) -> None:
    from workers import main
    from workers.main import WorkerProcess

    has_worked = threading.Event()
    in_parts_from_bytes = objects.MULTIPART_FROM_BYTES

    def before_put() -> None:
        post.reach("before-put")
        objects.MULTIPART_FROM_BYTES = post.standing("parts").get("from_bytes", in_parts_from_bytes)

    def plant() -> None:
        """In the child, since torch may be imported there only."""
        _mark(claim, "claim", after=has_worked.set, with_result=True)
        _mark_ledger(post)
        _mark_model(post)
        if os.environ.get(HASTE) == "on":
            _make_haste()
        _mark(
            ObjectStore,
            "put",
            before=before_put,
            after=lambda: post.reach("after-put"),
        )
        if os.environ.get(FENCING) == "off":
            _switch_fencing_off()

    def before_ack() -> None:
        if has_worked.is_set():
            has_worked.clear()
            post.reach("before-ack")

    _mark(WorkerProcess, "_start_child", before=plant)
    _mark(WorkerProcess, "work", before=has_worked.clear, after=before_ack)
    main.main()


def _run_sweeper(post: Post) -> None:
    from jobs.cli import main

    name_commit = _mark_commits(post)
    _mark(submit, "store_campaign", after=lambda: name_commit("store-commit"))
    _mark(fanout, "_fan_out_one", after=lambda: name_commit("fan-out-commit"))
    # The same number of looks for orphans, without the hours in between.
    orphans.LOOK_AFTER_S = (0, 1, 2, 3, 4)
    sys.argv[1:] = ["sweeper"]
    main()


def _run_api(post: Post) -> None:
    from jobs import web
    from jobs.queue import WakeUps

    _mark(WakeUps, "send", before=lambda: post.reach("before-wake-up"))
    web.main()


PROGRAMS: dict[str, Callable[[Post], None]] = {
    "worker": _run_worker,
    "sweeper": _run_sweeper,
    "api": _run_api,
}


def main() -> None:
    """The program that the first argument names, with the rest as its own arguments."""
    program = sys.argv.pop(1)
    slot = sys.argv[sys.argv.index("--slot") + 1] if "--slot" in sys.argv else program
    PROGRAMS[program](Post(Path(os.environ[orders.VARIABLE]), slot))


if __name__ == "__main__":
    main()
