"""The smallest runtime: it answers with the prompt. For the demo, for tests, as a pattern."""

from agents.runtimes.base import Runtime
from agents.runtimes.types import Command, Message, Request


class EchoRuntime(Runtime):
    """Prints the prompt line by line and keeps nothing between runs."""

    name = "echo"
    label = "Echo"

    def command(self, request: Request) -> Command:
        """`cat`, with the prompt as standard input."""
        return Command(
            argv=("cat",),
            request=request,
            env={"HOME": request.paths.home},
            files={"prompt": request.prompt.encode()},
            stdin="prompt",
        )

    def parse(self, line: str) -> list[Message]:
        """Every line is text."""
        return [Message("text", line)]
