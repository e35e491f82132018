"""Has other agents work side by side, and puts together what they found."""

from dataclasses import dataclass
from typing import Annotated, Any

from cofferdam import AgentError, Child, ChildError, ChildFailed, Context, Length, SpawnError, agent

# As many as one run may start.
JOBS_MAX = 16


@dataclass
class Job:
    agent: str
    """The agent that does it."""
    input: Any
    """What it gets."""


@dataclass
class Input:
    jobs: Annotated[list[Job], Length(1, JOBS_MAX)]
    """What is to be done, 1 to 16 of them."""


@dataclass
class Done:
    agent: str
    output: Any


@dataclass
class Failed:
    agent: str
    code: str
    message: str


@dataclass
class Output:
    done: list[Done]
    failed: list[Failed]
    complete: bool
    """Whether nothing failed."""


@agent(agents=["*"])
def run(ctx: Context, input: Input) -> Output:
    """Has other agents work side by side, and puts together what they found."""
    ctx.thinking(f"Starting {len(input.jobs)} agents")
    # All of them, before the first is waited for.
    started = [(job.agent, start(ctx, job)) for job in input.jobs]
    done: list[Done] = []
    failed: list[Failed] = []
    for name, child in started:
        ended = child if isinstance(child, Failed) else ending(name, child)
        ctx.emit("job", {"agent": name, "ok": isinstance(ended, Done)})
        if isinstance(ended, Done):
            done.append(ended)
        else:
            failed.append(ended)
    # What little there is, is of use; nothing at all is a failure.
    if not done:
        raise AgentError("all_failed", failed[0].message)
    return Output(done, failed, not failed)


def start(ctx: Context, job: Job) -> Child[Any] | Failed:
    try:
        return ctx.spawn(job.agent, job.input)
    except SpawnError as error:
        return Failed(job.agent, "not_started", str(error))


def ending(name: str, child: Child[Any]) -> Done | Failed:
    try:
        return Done(name, child.wait())
    except ChildFailed as failure:
        return Failed(name, failure.code, failure.message)
    except ChildError as error:
        return Failed(name, "not_known", str(error))
