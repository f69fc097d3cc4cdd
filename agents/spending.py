"""What one run has used so far, against what it may: turns, tokens and dollars.

The agent's program keeps the same limits by itself where it can; this one holds whatever it does.
"""

from agents.models import Run
from agents.runtimes import AgentConfig

# A program that keeps the limit itself is given the time to say so.
GRACE_TURNS = 1


def exceeded(run: Run, config: AgentConfig) -> str:
    """Which limit was passed, with the numbers; empty if none."""
    turns, tokens = run.used.get("turns", 0), run.used.get("tokens", 0)
    if config.max_turns and turns > config.max_turns + GRACE_TURNS:
        return f"More turns than the limit of {config.max_turns}."
    if config.max_tokens and tokens > config.max_tokens:
        return f"{tokens:,} tokens used, more than the limit of {config.max_tokens:,} (token budget)."
    if config.max_cost and run.cost_usd is not None and run.cost_usd > config.max_cost:
        return f"It cost {run.cost_usd:.2f} USD, more than the limit of {config.max_cost:.2f} (cost budget)."
    return ""
