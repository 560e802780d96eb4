"""Every key of formation.toml: what may stand there, its default and what it is for. Pure data.

The one list of them: `manifest_type` and `manifest_rules` read by it, `manifest_schema` writes it
down, and docs/manifest.md is held against it. What a key means in full is on that page.
"""

from __future__ import annotations

from formation.builds import TIMEOUT_S as BUILD_TIMEOUT_S
from formation.manifest_kinds import (
    CountOrPercent,
    Duration,
    Exclusion,
    Key,
    Keys,
    Kind,
    Named,
    Need,
    Number,
    OneWord,
    Rlimit,
    SignalName,
    Size,
    SomeWords,
    SubTable,
    Switch,
    Text,
    Texts,
    TrueOrText,
    Variables,
    Whole,
    YesNo,
)
from formation.model import (
    QUANTITY_MAX,
    Ability,
    Probe,
    ProbeKind,
    ProcessType,
)
from formation.names import APP_NAME, TYPE_NAME
from formation.releasecommand import TIMEOUT_S
from formation.rules import Schedule
from formation.secrets import NAME as SECRET_NAME

DEFAULTS = ProcessType(name="default", command="true")
PROBE_DEFAULTS = Probe(kind=ProbeKind.TCP)
SCHEDULE_DEFAULTS = Schedule(cron="* * * * *")
STOP_SIGNALS = ("ABRT", "ALRM", "HUP", "INT", "KILL", "QUIT", "TERM", "USR1", "USR2", "WINCH")
PROBE_KINDS = ("http", "tcp", "exec", "grpc")

MEMORY_MIN_BYTES = 2**20
CPUS_MIN, CPUS_MAX = 0.01, 10_000.0
COUNT_MAX = 2**31 - 1
PORT_MAX = 65_535
PERIOD_MIN_S = 0.1
TIMEOUT_MIN_S = 0.01
ROW_MAX = 1000
NICE_MIN, NICE_MAX = -20, 19
RUNS_KEPT_MAX = 1000

_NOT_BLANK = r"[\s\S]*\S[\s\S]*"
_LABEL = r"[A-Za-z0-9_./-]+"
_VALUE = r"[^\s,()=!][^\s,()]*"
_VALUES = rf"\(\s*{_VALUE}(?:\s*,\s*{_VALUE})*\s*\)"
LABEL_PATTERN = _LABEL
CONSTRAINT_PATTERN = (
    rf"\s*(?:!?{_LABEL}|{_LABEL}\s*!?=\s*{_VALUE}|{_LABEL}\s+(?:not\s+)?in\s*{_VALUES})\s*"
)
_CONSTRAINT_RULE = (
    'is no condition on a label; write "ssd", "!gpu", "zone=eu-*", "zone!=eu-3", '
    '"disk in (nvme, ssd)" or "rack not in (r1, r2)"'
)
CRON_PATTERN = r"\s*\S+(?:\s+\S+){4}\s*"
CRON_EXAMPLES = 'minute, hour, day of month, month, day of week, such as "30 2 * * *"'
ZONE_PATTERN = r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+)*"


def _key(kind: Kind, meaning: str) -> Key:
    return Key(kind=kind, meaning=meaning)


def _account(what: str) -> Text:
    pattern = r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,255}\$?"
    return Text(pattern=pattern, rule=f"is no name or number of a {what}")


# -- probes ----------------------------------------------------------------------------------------

_PROBE = {
    "http": _key(
        Text(pattern=r"/[!-~]*", rule='is no path such as "/health"'),
        "A path: GET answers with a status from 200 to 399.",
    ),
    "tcp": _key(Switch(), "The port takes a connection."),
    "exec": _key(
        Text(pattern=_NOT_BLANK, rule="is no command"),
        "A command beside the process, with its environment and user: exit 0.",
    ),
    "grpc": _key(
        TrueOrText(pattern=r"[!-~]+", rule="true for the whole server, or the name of a service"),
        "The standard health protocol says SERVING, for the server or for this service.",
    ),
}
_PROBE_SETTINGS = {
    "port": _key(
        Whole(low=1, high=PORT_MAX), "Which port is asked; default: the instance's own PORT."
    ),
    "every": _key(
        Duration(low_s=PERIOD_MIN_S, default_s=PROBE_DEFAULTS.period_s),
        "From one run of the probe to the next.",
    ),
    "timeout": _key(
        Duration(low_s=TIMEOUT_MIN_S, default_s=PROBE_DEFAULTS.timeout_s),
        "An answer that takes longer has failed; not longer than every.",
    ),
    "failures": _key(
        Whole(low=1, high=ROW_MAX, default=PROBE_DEFAULTS.failures),
        "So many failures in a row count.",
    ),
    "successes": _key(
        Whole(low=1, high=ROW_MAX, default=PROBE_DEFAULTS.successes),
        "So many passes in a row count.",
    ),
}
_PROBE_NEED = Need(keys=tuple(_PROBE_SETTINGS), beside=PROBE_KINDS, what="a probe")
_PORT_OF_EXEC = Exclusion(
    keys=("exec", "port"), at="port", why="has no meaning for exec: the command gets PORT"
)
READY = Keys(
    keys={
        "after": _key(
            Duration(default_s=DEFAULTS.ready_after_s), "Ready when it has been up so long."
        ),
        **_PROBE,
        "notify": _key(Switch(), "It says READY=1 itself, as under systemd (sd_notify)."),
        **_PROBE_SETTINGS,
        "grace": _key(
            Duration(default_s=DEFAULTS.start_grace_s),
            "So long after the start failed probes do not count, and READY=1 may take.",
        ),
    },
    exclusions=(Exclusion(keys=("after", *PROBE_KINDS, "notify")), _PORT_OF_EXEC),
    needs=(_PROBE_NEED,),
)
LIVE = Keys(
    keys={
        **_PROBE,
        **_PROBE_SETTINGS,
        "watchdog": _key(
            Duration(low_s=PERIOD_MIN_S, default_s=DEFAULTS.watchdog_s),
            "It says WATCHDOG=1 at least so often, as under systemd (sd_notify).",
        ),
    },
    exclusions=(Exclusion(keys=PROBE_KINDS), _PORT_OF_EXEC),
    needs=(_PROBE_NEED,),
)

# -- stop, limits, resources -----------------------------------------------------------------------

STOP = Keys(
    keys={
        "signal": _key(
            SignalName(names=STOP_SIGNALS, default=DEFAULTS.stop_signal), "How it is asked to end."
        ),
        "grace": _key(
            Duration(default_s=DEFAULTS.stop_grace_s),
            "From the signal to KILL for all that is left.",
        ),
        "drain": _key(
            Duration(default_s=DEFAULTS.stop_drain_s),
            "When a healthy one is to be stopped: so long it is no endpoint any more and still "
            "serves, before it gets the signal.",
        ),
        "to": _key(
            OneWord(default=DEFAULTS.stop_to),
            "The signal goes to the whole process group, or to the main process alone.",
        ),
    }
)
# setrlimit's, with the least that lets a process start at all. Linux ignores `rss`. Who means
# `cpus` and writes `cpu` would have killed what was to be slowed down, so that one has a name of
# its own.
RLIMITS = {
    "as": _key(Rlimit(value=Size(low=2**20)), "Address space of a process."),
    "core": _key(Rlimit(value=Size()), "Size of core dumps; 0: none."),
    "data": _key(Rlimit(value=Size(low=2**16)), "Data segment of a process."),
    "fsize": _key(Rlimit(value=Size()), "Size of a file that is written."),
    "memlock": _key(Rlimit(value=Size()), "Memory that is kept from swap."),
    "msgqueue": _key(Rlimit(value=Size()), "POSIX message queues."),
    "stack": _key(Rlimit(value=Size(low=2**16)), "The main thread's stack."),
    "nofile": _key(Rlimit(value=Whole(low=8, high=COUNT_MAX)), "Open files of a process."),
    "nproc": _key(
        Rlimit(value=Whole(low=1, high=COUNT_MAX)),
        "Processes of the user on the whole host; limits.pids is mostly what is meant.",
    ),
    "sigpending": _key(Rlimit(value=Whole(low=0, high=COUNT_MAX)), "Queued signals."),
    "rtprio": _key(Rlimit(value=Whole(low=0, high=COUNT_MAX)), "Real-time priority."),
    "nice": _key(
        Rlimit(value=Whole(low=0, high=COUNT_MAX)),
        "20 - nice value: how far it may raise its own priority.",
    ),
    "cpu_time": _key(
        Rlimit(value=Duration(low_s=1.0)),
        "Computing in all, then it gets SIGXCPU. To slow down is limits.cpus.",
    ),
    "rttime": _key(
        Rlimit(value=Duration(low_s=1e-6), per_second=1_000_000),
        "Computing without a pause under real-time scheduling.",
    ),
}
_CPUS = Number(low=CPUS_MIN, high=CPUS_MAX)
LIMITS = Keys(
    keys={
        "cpus": _key(_CPUS, "Cores of one instance: more than that is slowed down."),
        "memory": _key(
            Size(low=MEMORY_MIN_BYTES), "Of one instance: more is answered by the OOM killer."
        ),
        "pids": _key(Whole(low=1, high=COUNT_MAX), "Processes and threads of one instance."),
        **RLIMITS,
    }
)
RESOURCES = Keys(
    keys={
        "cpus": _key(_CPUS, "Cores that a host keeps for one instance."),
        "memory": _key(Size(low=MEMORY_MIN_BYTES), "Memory that a host keeps for one instance."),
    }
)

# -- placement, rollout, schedule, on_host_loss ----------------------------------------------------

_CONSTRAINTS = Texts(pattern=CONSTRAINT_PATTERN, rule=_CONSTRAINT_RULE)
PLACEMENT = Keys(
    keys={
        "require": _key(_CONSTRAINTS, "Conditions on the labels of a host, all of them."),
        "prefer": _key(_CONSTRAINTS, "As require, where it can be had; the first weighs the most."),
        "spread": _key(
            Texts(
                pattern=LABEL_PATTERN,
                rule="is no name of a label: letters, digits and _ . / -",
                one_alone=True,
                default=DEFAULTS.where.spread,
            ),
            "Labels over whose values instances are spread before hosts; []: over hosts only.",
        ),
        "max_per_host": _key(
            Whole(low=1, high=QUANTITY_MAX), "So many of them on one host at most."
        ),
        "apart_from": _key(
            Texts(
                pattern=rf"(?:{APP_NAME.pattern}/)?{TYPE_NAME.pattern}",
                rule='is no type; write "worker", or "app/worker" for one of another app',
            ),
            "Types that share no host with this one.",
        ),
    }
)
ROLLOUT = Keys(
    keys={
        "surge": _key(
            CountOrPercent(high=QUANTITY_MAX),
            "So many more may run during a change; 25%, or 0 with port, exclusive or per_host.",
        ),
        "unavailable": _key(
            CountOrPercent(high=QUANTITY_MAX),
            "So many may be missing during a change; 0, or 1 with port, exclusive or per_host.",
        ),
        "healthy": _key(
            Duration(default_s=DEFAULTS.rollout.healthy_s),
            "A new instance counts when it was healthy so long.",
        ),
        "deadline": _key(
            Duration(default_s=DEFAULTS.rollout.deadline_s),
            "Without one more new instance within this time the change has failed.",
        ),
        "rollback": _key(
            YesNo(default=DEFAULTS.rollout.rollback), "A change that has failed is taken back."
        ),
    }
)
SCHEDULE = Keys(
    keys={
        "cron": _key(
            Text(pattern=CRON_PATTERN, rule=f"are not five fields: {CRON_EXAMPLES}"),
            "When it runs: minute, hour, day of month, month, day of week.",
        ),
        "zone": _key(
            Text(pattern=ZONE_PATTERN, rule='is no time zone such as "Europe/Berlin"'),
            "The time zone of cron; default: UTC.",
        ),
        "overlap": _key(
            OneWord(default=SCHEDULE_DEFAULTS.overlap),
            "What happens at a time when the run before is not over.",
        ),
        "missed": _key(
            OneWord(default=SCHEDULE_DEFAULTS.missed),
            "What becomes of times that passed while no coordinator led.",
        ),
        "keep": _key(
            Whole(low=1, high=RUNS_KEPT_MAX, default=SCHEDULE_DEFAULTS.keep),
            "How many runs that are over stay known.",
        ),
    },
    required={"cron": CRON_EXAMPLES},
)
ON_HOST_LOSS = Keys(
    keys={
        "action": _key(
            OneWord(default=DEFAULTS.on_host_loss.action),
            "Replace its instances elsewhere, or wait for the host.",
        ),
        "after": _key(
            Duration(default_s=DEFAULTS.on_host_loss.after_s),
            "How long the host must be silent; never shorter than the cluster's own time.",
        ),
        "keep": _key(
            OneWord(default=DEFAULTS.on_host_loss.keep),
            "Which copy stays when the host returns after all.",
        ),
    }
)

# -- a type and the file ---------------------------------------------------------------------------

_SECRETS = Texts(
    pattern=SECRET_NAME.pattern, rule="is no name of a secret: letters, digits and _ are"
)
TYPE = Keys(
    keys={
        "command": _key(
            Text(pattern=_NOT_BLANK, rule="is no command"),
            "As in a Procfile. What needs a shell runs by sh -c.",
        ),
        "quantity": _key(
            Whole(low=0, high=QUANTITY_MAX, default=-1),
            "How many when the app first meets this type; afterwards formctl scale alone "
            "changes it. 1 for web, with per_host and with a schedule, else 0.",
        ),
        "restart": _key(
            OneWord(default=DEFAULTS.restart),
            "Which ends are followed by another start; never with a schedule.",
        ),
        "env": _key(Variables(), "Names and texts for this type; goes before the file's [env]."),
        "secrets": _key(_SECRETS, "Which of the app's secrets it gets; default: all. []: none."),
        "secret_files": _key(
            _SECRETS, "Secrets that it gets as files in memory; NAME_FILE says where."
        ),
        "port": _key(Whole(low=1, high=PORT_MAX), "A fixed PORT: one instance for each host."),
        "user": _key(_account("user"), "Name or number; needs an agent that is root."),
        "group": _key(_account("group"), "Name or number; needs an agent that is root."),
        "workdir": _key(
            Text(
                pattern=r"(?!(?:[\s\S]*/)?\.\.(?:/|$))[\s\S]+",
                rule="must be an absolute path, or one below the app's workdir (without ..)",
            ),
            "On the hosts: absolute, or below the app's workdir.",
        ),
        "umask": _key(
            Text(
                pattern="0?[0-7]{1,3}",
                rule='must be octal digits such as "027", at most "777"',
                example='"027"',
            ),
            'Octal digits as text, such as "027".',
        ),
        "nice": _key(
            Whole(low=NICE_MIN, high=NICE_MAX, default=DEFAULTS.nice),
            "-20 (first) to 19 (last); below 0 needs an agent that is root.",
        ),
        "exclusive": _key(Switch(), "Never two copies of one slot at once, whatever breaks."),
        "per_host": _key(Switch(), "The quantity is that of every host that fits."),
        "requires": _key(SomeWords(words=Ability), "What a host must be able to enforce."),
        "ready": _key(SubTable(keys=READY), "When it counts as up."),
        "live": _key(SubTable(keys=LIVE), "When it is no longer alive and started again."),
        "stop": _key(SubTable(keys=STOP), "How it is stopped."),
        "limits": _key(SubTable(keys=LIMITS), "What it may use at most."),
        "resources": _key(SubTable(keys=RESOURCES), "What a host keeps for each instance."),
        "placement": _key(SubTable(keys=PLACEMENT), "On which hosts it runs."),
        "rollout": _key(SubTable(keys=ROLLOUT), "How a change arrives at its instances."),
        "schedule": _key(SubTable(keys=SCHEDULE), "It runs at these times, to its end."),
        "on_host_loss": _key(
            SubTable(keys=ON_HOST_LOSS), "What happens when its host falls silent."
        ),
    },
    required={"command": "formation.toml alone defines types, a Procfile beside it is not read"},
    exclusions=(
        Exclusion(
            keys=("per_host", "schedule"),
            at="per_host",
            why="excludes a schedule: a run is placed once, on one host",
        ),
        Exclusion(
            keys=("exclusive", "schedule"),
            at="exclusive",
            why="means nothing with a schedule: a run is placed once; see schedule.overlap",
        ),
        Exclusion(
            keys=("rollout", "schedule"),
            at="rollout",
            why="means nothing with a schedule: the next run is of the new release",
        ),
        Exclusion(
            keys=("on_host_loss", "schedule"),
            at="on_host_loss",
            why="means nothing with a schedule: a run is placed once",
        ),
        Exclusion(
            keys=("on_host_loss", "per_host"),
            at="on_host_loss",
            why="means nothing with per_host: nothing of it goes to another host",
        ),
    ),
)
_RELEASE = {
    "command": _key(
        Text(pattern=_NOT_BLANK, rule="is no command"),
        "Runs once for each release, before anything of it starts; it fails: all stays as it was.",
    ),
    "type": _key(
        Text(pattern=TYPE_NAME.pattern, rule="is no name of a type"),
        "With the user, limits, environment and placement of this type; default: plain ones.",
    ),
    "timeout": _key(
        Duration(low_s=1.0, default_s=TIMEOUT_S),
        "From when it was asked for; then it is stopped, and has failed.",
    ),
}
FILE = Keys(
    keys={
        "app": _key(
            Text(
                pattern=APP_NAME.pattern,
                rule="is no app name: lower case letters, digits and . _ -",
            ),
            "The app's name; default: the directory's.",
        ),
        "workdir": _key(
            Text(pattern=r"/[\s\S]*", rule="must be an absolute path: it is one on the hosts"),
            "Where the app's files are on the hosts; default: the file's directory.",
        ),
        "env": _key(Variables(), "Names and texts for all types; .env goes before it."),
        "build": _key(
            Text(pattern=_NOT_BLANK, rule="is no command"),
            "A command that runs once on each host in code that was deployed, before it is run.",
        ),
        "build_timeout": _key(
            Duration(low_s=PERIOD_MIN_S, default_s=BUILD_TIMEOUT_S),
            "A build that takes longer is ended and has failed.",
        ),
        "build_user": _key(
            _account("user"), "Whom the build runs as; default: as the types, which then agree."
        ),
        "release": _key(
            SubTable(
                keys=Keys(
                    keys=_RELEASE,
                    required={"command": 'write command = "./manage.py migrate"'},
                )
            ),
            "The release command, such as the migration of a database.",
        ),
        "types": _key(
            Named(
                keys=TYPE,
                pattern=TYPE_NAME.pattern,
                rule="no name for a type: up to 63 letters, digits, _ and -",
            ),
            "The process types.",
        ),
    },
    needs=(Need(keys=("build_timeout", "build_user"), beside=("build",), what="a build"),),
    exclusions=(
        Exclusion(
            keys=("build", "workdir"),
            at="build",
            why="means nothing with workdir: code that lies on the hosts is not built",
        ),
    ),
)


def tables(keys: Keys) -> dict[str, Keys]:
    """The tables in a table, by their names."""
    return {
        name: key.kind.keys for name, key in keys.keys.items() if isinstance(key.kind, SubTable)
    }


# Keys with the table that they stand in, for whoever forgot the table.
ELSEWHERE = tuple(f"{table}.{key}" for table, keys in tables(TYPE).items() for key in keys.keys)
