"""`formctl completion`: the shell's part of tab completion."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from formctl.settings import examples, say


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
@examples(
    "source <(formctl completion bash)        in ~/.bashrc",
    "source <(formctl completion zsh)         in ~/.zshrc",
    "formctl completion fish | source         in ~/.config/fish/config.fish",
)
def command(ctx: click.Context, shell: str) -> None:
    """Print what makes the shell complete formctl's commands and options."""
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three shells of the choice"
    completion = kind(ctx.find_root().command, {}, "formctl", "_FORMCTL_COMPLETE")
    # Not `completion.source()`: for bash that starts one to ask for its version.
    say(completion.source_template % completion.source_vars())
