"""Any program as an agent: an argument list, the prompt on standard input."""

from agents.runtimes.base import Runtime
from agents.runtimes.streamjson import messages
from agents.runtimes.types import Command, Message, Request, RunError


class ProgramRuntime(Runtime):
    """Executes the agent's argument list; no shell sees it.

    Lines of standard output that are JSON objects in the shape of Claude Code's stream are
    understood (`{"type": "result", "result": "done", "is_error": false}` states a result); all
    others are text. The home directory stays with the session, so a continued session finds the
    files of its last run. Session and run are named by HERDWEB_SESSION and HERDWEB_RUN.
    """

    name = "command"
    label = "Command"
    supports_resume = True
    uses_command = True
    reads = ("command",)

    def command(self, request: Request) -> Command:
        """The argument list as configured; RunError when there is none."""
        if not request.agent.command:
            raise RunError("The agent has no command. Set its argument list, for example: python3 work.py")
        return Command(
            argv=request.agent.command,
            request=request,
            env={
                "HOME": request.paths.home,
                "HERDWEB_AGENT": request.agent.name,
                "HERDWEB_RUN": request.run,
                "HERDWEB_SESSION": request.conversation.id,
                "HERDWEB_SESSION_CONTINUES": "1" if request.conversation.resume else "",
            },
            files={"prompt": request.prompt.encode()},
            stdin="prompt",
        )

    def parse(self, line: str) -> list[Message]:
        """JSON objects by their type, everything else as text."""
        return messages(line)
