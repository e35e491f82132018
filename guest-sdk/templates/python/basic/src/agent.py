"""Greets, and counts how often it did."""

from dataclasses import dataclass

from cofferdam import Context, InvalidInput, Scope, agent


@dataclass
class Input:
    name: str
    """Whom to greet."""


@dataclass
class Output:
    greeting: str
    times: int
    """How often this user was greeted, this time included."""


@agent(state="read_write")
def run(ctx: Context, input: Input) -> Output:
    """Greets, and counts how often it did."""
    if not input.name:
        raise InvalidInput("`name` is empty: say whom to greet")
    ctx.thinking(f"Greeting {input.name}")
    state = ctx.state(Scope.USER)
    stored = state.get_json("times", int)
    times = (stored.value if stored else 0) + 1
    state.set_json("times", times)
    return Output(f"Hello, {input.name}!", times)
