"""The command `genai`: one subcommand a module.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 some files were skipped, 4 the service cannot be reached.
"""

import logging
import sys
from collections.abc import Sequence

import typer
from typer.core import TyperGroup

from apps.cli import agents, chat, docs, doctor, drill, keys, models, serve
from apps.cli.remote import CommandFailure
from apps.core.process import VERSION
from apps.core.settings import SettingsError

ASK = "ask"
GROUP_OPTIONS = frozenset({"--help", "--version", "--install-completion", "--show-completion"})
# of the commands, and whether a value follows: people write them before the command, too
COMMAND_OPTIONS = {"--url": True, "--key": True, "--json": False}


class PromptGroup(TyperGroup):
    """Takes what is not a command for a prompt: `genai "What is Python?"`, and what is piped in without one."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        args = self._behind_command(args)
        piped = not args and sys.stdin is not None and not sys.stdin.isatty()
        if piped or (args and args[0] not in self.commands and args[0] not in GROUP_OPTIONS):
            args = [ASK, *args]
        return super().parse_args(ctx, args)

    def _behind_command(self, args: list[str]) -> list[str]:
        """`--url URL models` as `models --url URL`, and no prompt about models."""
        begins = 0
        while begins < len(args) and (name := args[begins].partition("=")[0]) in COMMAND_OPTIONS:
            begins += 2 if COMMAND_OPTIONS[name] and name == args[begins] else 1
        options, rest = args[:begins], args[begins:]
        if not options or not rest or rest[0] not in self.commands:
            return args
        ends = rest.index("--") if "--" in rest else len(rest)
        return [*rest[:ends], *options, *rest[ends:]]


app = typer.Typer(
    cls=PromptGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Serve models, ask them, and look after the service. `genai PROMPT` asks the local model.",
    epilog='Start with: genai serve · genai "What is Python?" · genai doctor',
)
app.command("serve")(serve.serve)
app.command("chat")(chat.chat)
app.command(ASK)(chat.ask)
app.command("models")(models.models)
app.add_typer(docs.app, name="docs")
# by the name of its routes
app.add_typer(docs.app, name="rag", hidden=True)
app.add_typer(agents.app, name="agents")
app.add_typer(keys.app, name="keys")
app.add_typer(serve.fleet_app, name="fleet")
app.command("usage")(models.usage)
app.add_typer(models.route_app, name="route")
app.command("doctor")(doctor.doctor)
app.command("bench", cls=serve.PassingOn, context_settings=serve.OWN_ARGUMENTS)(serve.bench)
app.command("drill")(drill.drill)
app.command("mcp")(serve.mcp)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"genai {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Print the version."),
) -> None:
    """Options of `genai` itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status. What fails is one line on standard error."""
    # its reason is said once, by the line below
    logging.disable(logging.CRITICAL)
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["serve"]:
        logging.disable(logging.NOTSET)
    try:
        app(args=words, prog_name="genai")
    except CommandFailure as error:
        print(error, file=sys.stderr)
        return error.code
    except SettingsError as error:
        print(error, file=sys.stderr)
        return 1
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
