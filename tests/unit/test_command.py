"""Which command lines run directly, which through a shell, and what the program is."""

from __future__ import annotations

import pytest

from formation_agent.command import find_program, plan


def sh(line: str) -> tuple[str, ...]:
    return ("/bin/sh", "-c", line)


@pytest.mark.parametrize(
    ("command", "argv"),
    [
        ("sleep 10", ("sleep", "10")),
        ("  sleep\t10  ", ("sleep", "10")),
        ("./bin/web --port=80 a,b:c@d%e+f", ("./bin/web", "--port=80", "a,b:c@d%e+f")),
        ("node 'it''s' \"a b\"", ("node", "its", "a b")),
        (r'node "a\"b" "a\\b" "a\b" \a\ b', ("node", 'a"b', r"a\b", r"a\b", "a b")),
        ("node ''", ("node", "")),
        ("cmd # x", ("cmd",)),
        ("cmd a#b", ("cmd", "a#b")),
        ("cmd !x ^y = a=b", ("cmd", "!x", "^y", "=", "a=b")),
        ("cmd 'a;b|c&d$e`f'", ("cmd", "a;b|c&d$e`f")),
        (r"cmd \$HOME \* \;", ("cmd", "$HOME", "*", ";")),
        ("cmd 5$ $", ("cmd", "5$", "$")),
        ("cmd \\\n  --flag", ("cmd", "--flag")),
        ("exec foo bar", ("foo", "bar")),
        ("exec echo bar", ("echo", "bar")),
        ("cmd grüße", ("cmd", "grüße")),
    ],
)
def test_plain_words_run_directly(command: str, argv: tuple[str, ...]) -> None:
    planned = plan(command)
    assert planned.argv == argv
    assert planned.program == argv[0]


@pytest.mark.parametrize(
    ("command", "line", "program"),
    [
        (
            'sh -c "echo $FOOBAR" >/dev/null 2>&1',
            'exec sh -c "echo $FOOBAR" >/dev/null 2>&1',
            "sh",
        ),
        (
            "gunicorn app:app -b 0.0.0.0:$PORT",
            "exec gunicorn app:app -b 0.0.0.0:$PORT",
            "gunicorn",
        ),
        (
            "RAILS_ENV=production bundle exec puma",
            "RAILS_ENV=production exec bundle exec puma",
            "bundle",
        ),
        ("A='x y' B=$C cmd", "A='x y' B=$C exec cmd", "cmd"),
        ("PATH=bin:$PATH cmd", "PATH=bin:$PATH exec cmd", None),
        (">log 2>&1 cmd x", ">log 2>&1 exec cmd x", "cmd"),
        (">log A=1 cmd", ">log A=1 exec cmd", "cmd"),
        ("cmd 2 >y", "exec cmd 2 >y", "cmd"),
        ("cmd <in >>out 2>&-", "exec cmd <in >>out 2>&-", "cmd"),
        ("ls *.py", "exec ls *.py", "ls"),
        ("cp {a,b}", "exec cp {a,b}", "cp"),
        ("ls ~/x", "exec ls ~/x", "ls"),
        ("~/bin/web", "exec ~/bin/web", None),
        ("$JAVA_HOME/bin/java -jar x", "exec $JAVA_HOME/bin/java -jar x", None),
        ("web -w $(nproc)", "exec web -w $(nproc)", "web"),
        ("web ${PORT:-5000} $1", "exec web ${PORT:-5000} $1", "web"),
        ("cmd $X # why", "exec cmd $X # why", "cmd"),
        ("exec cmd >log", "exec cmd >log", "cmd"),
    ],
)
def test_one_simple_command_leaves_no_shell_behind(
    command: str, line: str, program: str | None
) -> None:
    planned = plan(command)
    assert planned.argv == sh(line)
    assert planned.program == program


@pytest.mark.parametrize(
    "command",
    [
        "cd app && npm start",
        "while :; do date; sleep 1; done",
        "a | b",
        "a &",
        "a; b",
        "a\nb",
        "(a)",
        "{ a; }",
        "! a",
        "time x",
        "if a; then b; fi",
        "FOO=1",
        "export A=1",
        ". ./env",
        ": x",
        "test -f x",
        "true",
        "exit 3",
        "echo 'it''s'",
        "'cd' x",
        "exec",
        "exec -a name cmd",
        ">file",
        "$CMD x",
        '"$@"',
        "$(cmd) x",
        "cmd `x`",
        'cmd "`x`"',
        "cmd $((1 + 2))",
        "cmd $'x'",
        "cmd <<E",
        "cmd <(x)",
        "cmd >",
        "cmd > > x",
        "cmd 'open",
        'cmd "open',
        "cmd \\",
        "",
        "# nothing",
    ],
)
def test_everything_else_is_the_shells_as_it_stands(command: str) -> None:
    planned = plan(command)
    assert planned.argv == sh(command)
    assert planned.program is None


def test_a_program_is_looked_for_in_the_order_of_path() -> None:
    files = {"/a/tool", "/b/tool", "/work/bin/tool", "/work/local"}
    assert find_program("tool", "/x:/b:/a", "/work", files.__contains__) == "/b/tool"
    assert find_program("none", "/x:/b:/a", "/work", files.__contains__) is None


def test_relative_and_empty_entries_of_path_mean_the_working_directory() -> None:
    files = {"/work/./local", "/work/bin/tool"}
    assert find_program("tool", "bin", "/work", files.__contains__) == "/work/bin/tool"
    assert find_program("local", "/x:", "/work", files.__contains__) == "/work/./local"
    assert find_program("local", "", "/work", files.__contains__) == "/work/./local"


def test_a_name_with_a_slash_is_not_looked_up() -> None:
    files = {"/work/bin/tool", "/abs/tool"}
    assert find_program("bin/tool", "/abs", "/work", files.__contains__) == "/work/bin/tool"
    assert find_program("/abs/tool", "", "/work", files.__contains__) == "/abs/tool"
    assert find_program("./tool", "/abs", "/work", files.__contains__) is None
