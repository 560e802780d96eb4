"""[types.NAME] of formation.toml: where instances run, how a change arrives, and when."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from formation import manifest
from formation.manifest import ManifestError
from formation.manifest_rules import constraint, contradiction, cron_problem, zone_problem
from formation.model import ProcessType, RestartPolicy
from formation.rules import (
    Constraint,
    HostLoss,
    Keep,
    Missed,
    Operator,
    Overlap,
    Resources,
    RolloutRules,
    Schedule,
    Share,
    Where,
)

IN_PLACE = RolloutRules(surge=Share(), unavailable=Share(count=1))
FULL = """\
[types.web]
command = "./web"
env = { WORKERS = "4", EMPTY = "" }
resources.cpus = 0.5
resources.memory = "256MiB"
limits.memory = "512MiB"
placement.require = ["zone=eu-*", "!gpu", "disk in (nvme, ssd)"]
placement.prefer = ["ssd", "rack not in (r1,r2)", "zone != eu-3"]
placement.spread = ["zone", "rack"]
placement.max_per_host = 2
placement.apart_from = ["worker", "other/db"]
rollout.surge = "50%"
rollout.unavailable = 1
rollout.healthy = "20s"
rollout.deadline = "10min"
rollout.rollback = false
on_host_loss.action = "replace"
on_host_loss.after = "1min"
on_host_loss.keep = "original"

[types.worker]
command = "./worker"
"""
WEB = ProcessType(
    name="web",
    command="./web",
    initial_quantity=1,
    env={"WORKERS": "4", "EMPTY": ""},
    resources=Resources(cpus=0.5, memory_bytes=2**28),
    limits=replace(ProcessType(name="x", command="x").limits, memory_bytes=2**29),
    where=Where(
        require=(
            Constraint(label="zone", patterns=("eu-*",)),
            Constraint(label="gpu", operator=Operator.NOT_IN),
            Constraint(label="disk", patterns=("nvme", "ssd")),
        ),
        prefer=(
            Constraint(label="ssd"),
            Constraint(label="rack", operator=Operator.NOT_IN, patterns=("r1", "r2")),
            Constraint(label="zone", operator=Operator.NOT_IN, patterns=("eu-3",)),
        ),
        spread=("zone", "rack"),
        max_per_host=2,
        apart_from=("worker", "other/db"),
    ),
    rollout=RolloutRules(
        surge=Share(percent=50.0),
        unavailable=Share(count=1),
        healthy_s=20.0,
        deadline_s=600.0,
        rollback=False,
    ),
    on_host_loss=HostLoss(after_s=60.0, keep=Keep.ORIGINAL),
)


def read(lines: str, before: str = "") -> ProcessType:
    text = f"{before}\n[types.web]\ncommand = 'x'\n{lines}\n[types.worker]\ncommand = 'y'\n"
    return manifest.parse(text).types[0]


def problems(lines: str, before: str = "") -> list[str]:
    with pytest.raises(ManifestError) as caught:
        read(lines, before)
    return [problem.removeprefix("formation.toml: types.web.") for problem in caught.value.problems]


def test_everything_that_can_be_said_of_a_type_s_rules_is_read() -> None:
    assert manifest.parse(FULL).types[0] == WEB


def test_a_schedule_makes_a_type_of_runs() -> None:
    found = read(
        "schedule.cron = '30 2 * * MON-FRI'\nschedule.zone = 'Europe/Berlin'\n"
        "schedule.overlap = 'replace'\nschedule.missed = 'once'\nschedule.keep = 5"
    )
    assert found.schedule == Schedule(
        cron="30 2 * * MON-FRI",
        zone="Europe/Berlin",
        overlap=Overlap.REPLACE,
        missed=Missed.ONCE,
        keep=5,
    )
    text = "[types.backup]\ncommand = 'x'\nschedule.cron = ' 0  3 * *  * '"
    backup = manifest.parse(text).types[0]
    assert backup.schedule == Schedule(cron="0 3 * * *")
    assert (backup.initial_quantity, backup.restart) == (1, RestartPolicy.NEVER)
    again = read("restart = 'on-failure'\nquantity = 3\nschedule.cron = '0 3 * * *'")
    assert (again.initial_quantity, again.restart) == (3, RestartPolicy.ON_FAILURE)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ("", RolloutRules()),
        ("port = 80", IN_PLACE),
        ("exclusive = true", IN_PLACE),
        ("per_host = true", IN_PLACE),
        ("per_host = true\nrollout.unavailable = '10%'",
         replace(IN_PLACE, unavailable=Share(percent=10.0))),
        ("port = 80\nrollout.surge = 2", replace(IN_PLACE, surge=Share(count=2))),
        ("rollout.surge = '12.5 %'", replace(RolloutRules(), surge=Share(percent=12.5))),
        ("rollout.surge = 0\nrollout.unavailable = '100%'",
         replace(RolloutRules(), surge=Share(), unavailable=Share(percent=100.0))),
    ],
)  # fmt: skip
def test_what_cannot_be_there_twice_is_replaced_in_its_place(
    lines: str, expected: RolloutRules
) -> None:
    assert read(lines).rollout == expected


def test_a_type_may_stand_on_every_host_and_may_be_there_once_only() -> None:
    assert read("per_host = true\nquantity = 2").per_host
    assert read("per_host = true").initial_quantity == 1
    assert read("exclusive = true").exclusive
    assert read("per_host = true\nexclusive = true\nport = 53").exclusive


def test_one_label_alone_is_a_list_of_it_and_none_is_by_host_only() -> None:
    assert read("").where.spread == ("zone",)
    assert read("placement.spread = 'rack'").where.spread == ("rack",)
    assert read("placement.spread = []").where.spread == ()


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        # A key in the wrong place, or with a slip.
        ("cron = '0 3 * * *'", "cron: unknown key; did you mean schedule.cron?"),
        ("surge = 1", "surge: unknown key; did you mean rollout.surge?"),
        ("keep = 3", "keep: unknown key; did you mean schedule.keep or on_host_loss.keep?"),
        ("exclusiv = true", "exclusiv: unknown key; did you mean exclusive?"),
        ("placement.requires = []", "placement.requires: unknown key; did you mean require?"),
        ("rollout.unavailble = 1", "rollout.unavailble: unknown key; did you mean unavailable?"),
        ("schedule = '@daily'", "schedule: must be a table, not a string"),
        # Values.
        ("env = 'A=1'", "env: must be a table, not a string"),
        ("env.PORT = 1", "env.PORT: must be a string, not an integer"),
        ("env = {'A=B' = 'x'}", "env.'A=B': no name for an environment variable"),
        ("exclusive = false", "exclusive: must be true, or left out"),
        ("per_host = 1", "per_host: must be true, or left out"),
        ("resources.cpus = 0", "resources.cpus: must be a number from 0.01 to 10000"),
        ("resources.cpus = nan", "resources.cpus: must be a number from 0.01 to 10000"),
        ("resources.memory = 5", "resources.memory: must be bytes or text such as"),
        ("resources.disk = 5", "resources.disk: unknown key; known are cpus, memory"),
        ("placement.require = 'ssd'", "placement.require: must be an array of texts"),
        ("placement.require = ['']", "placement.require: '' is no condition on a label; write"),
        ("placement.require = ['a b']", "placement.require: 'a b' is no condition on a label;"),
        ("placement.require = ['zone=']", "placement.require: 'zone=' is no condition on a"),
        ("placement.require = ['zone==a']", "placement.require: 'zone==a' is no condition on"),
        ("placement.require = ['!zone=a']", "placement.require: '!zone=a' is no condition on"),
        ("placement.require = ['disk in ()']", "placement.require: 'disk in ()' is no condition"),
        ("placement.require = ['disk in nvme']", "placement.require: 'disk in nvme' is no"),
        ("placement.require = ['ssd', 'ssd']", "placement.require: names something twice"),
        ("placement.prefer = [1]", "placement.prefer: must be an array of texts"),
        ("placement.prefer = ['a>1']", "placement.prefer: 'a>1' is no condition on a label; write"),
        ("placement.spread = true", "placement.spread: must be a text or an array of texts"),
        ("placement.spread = 'a b'", "placement.spread: 'a b' is no name of a label: letters,"),
        ("placement.spread = ['a', 'a']", "placement.spread: names something twice"),
        ("placement.max_per_host = 0", "placement.max_per_host: must be a whole number from 1"),
        ("placement.apart_from = 'a'", "placement.apart_from: must be an array of texts"),
        ("placement.apart_from = ['a b']", "placement.apart_from: 'a b' is no type; write"),
        ("placement.apart_from = ['Shop/web']", "placement.apart_from: 'Shop/web' is no type;"),
        ("rollout.surge = -1", "rollout.surge: must be a whole number from 0, or text such as"),
        ("rollout.surge = 1.5", "rollout.surge: must be a whole number from 0, or text such as"),
        ("rollout.surge = true", "rollout.surge: must be a whole number from 0, or text such as"),
        ("rollout.surge = '25'", "rollout.surge: must be a whole number from 0, or text such as"),
        ("rollout.surge = '101%'", "rollout.surge: must be a whole number from 0, or text such"),
        ("rollout.unavailable = '-1%'", "rollout.unavailable: must be a whole number from 0, or"),
        ("rollout.healthy = 'soon'", "rollout.healthy: must be seconds or text such as"),
        ("rollout.deadline = '25h'", "rollout.deadline: must be seconds or text such as"),
        ("rollout.rollback = 'no'", "rollout.rollback: must be true or false"),
        ("schedule.zone = 'UTC'", "schedule.cron: missing; minute, hour, day of month, month,"),
        ("schedule = {}", "schedule.cron: missing; minute, hour, day of month, month,"),
        ("schedule.cron = 5", "schedule.cron: must be a string, not an integer"),
        ("schedule.cron = '@daily'", "schedule.cron: '@daily' are not five fields: minute, hour"),
        ("schedule.cron = '0 0 3 * * *'", "schedule.cron: '0 0 3 * * *' are not five fields"),
        ("schedule.cron = '60 * * * *'", "schedule.cron: '60 * * * *': bad minute; the fields"),
        ("schedule.cron = '0 3 31 2 *'", "schedule.cron: '0 3 31 2 *': bad day-of-month; the"),
        ("schedule.cron = '0 3 * * MO'", "schedule.cron: '0 3 * * MO': bad day-of-week; the"),
        ("schedule.cron = '* * * * *'\nschedule.zone = 'Europe/Berln'",
         "schedule.zone: no time zone 'Europe/Berln' is known; did you mean Europe/Berlin?"),
        ("schedule.cron = '* * * * *'\nschedule.zone = 'CEST+2 h'",
         "schedule.zone: 'CEST+2 h' is no time zone such as"),
        ("schedule.cron = '* * * * *'\nschedule.overlap = 'queue'",
         'schedule.overlap: must be one of "skip", "allow", "replace"'),
        ("schedule.cron = '* * * * *'\nschedule.missed = 'all'",
         'schedule.missed: must be one of "skip", "once"'),
        ("schedule.cron = '* * * * *'\nschedule.keep = 0",
         "schedule.keep: must be a whole number from 1 to 1000"),
        ("on_host_loss.action = 'die'", 'on_host_loss.action: must be one of "replace", "wait"'),
        ("on_host_loss.after = -1", "on_host_loss.after: must be seconds or text such as"),
        ("on_host_loss.keep = 'both'",
         'on_host_loss.keep: must be one of "best", "original", "replacement"'),
        # Together.
        ("resources.memory = '1GiB'\nlimits.memory = '512MiB'",
         "resources.memory: 1GiB is more than limits.memory, 512MiB: it could never use so much"),
        ("resources.cpus = 2\nlimits.cpus = 1.5",
         "resources.cpus: 2 is more than limits.cpus, 1.5: it could never use so much"),
        ("placement.require = ['ssd', '!ssd']",
         'placement.require: no host can have "ssd" and "!ssd"'),
        ("port = 80\nplacement.max_per_host = 2",
         "placement.max_per_host: 2 with a fixed port there can be only one on a host"),
        ("placement.apart_from = ['web']",
         "placement.apart_from: web is this type itself; write max_per_host = 1 for that"),
        ("placement.apart_from = ['wroker']",
         "placement.apart_from: no type wroker in this file; did you mean worker?"),
        ("placement.apart_from = ['zzz']",
         'placement.apart_from: no type zzz in this file; one of another app is "app/type"'),
        ("rollout.surge = 0", "rollout: surge and unavailable are both 0: nothing could be"),
        ("rollout.surge = '0%'", "rollout: surge and unavailable are both 0: nothing could be"),
        ("port = 80\nrollout.unavailable = 0", "rollout: surge and unavailable are both 0: "),
        ("exclusive = true\nrollout.surge = 1",
         "rollout.surge: 1 with exclusive: there can be no more of them; 0"),
        ("per_host = true\nrollout.surge = '25%'",
         "rollout.surge: 25% with per_host: there can be no more of them; 0"),
        ("rollout.healthy = '5min'",
         "rollout.deadline: 300 s is not longer than healthy, 300 s: no change could succeed"),
        ("per_host = true\nplacement.max_per_host = 1",
         "placement.max_per_host: means nothing with per_host: the quantity says how many"),
        ("per_host = true\nplacement.prefer = ['ssd']",
         "placement.prefer: means nothing with per_host: every host that fits gets it"),
        ("per_host = true\nplacement.spread = 'rack'",
         "placement.spread: means nothing with per_host: every host that fits gets it"),
        ("per_host = true\nport = 53\nquantity = 2",
         "quantity: 2 with per_host and a fixed port there can be only one on a host"),
        ("per_host = true\non_host_loss.after = 60",
         "on_host_loss: means nothing with per_host: nothing of it goes to another host"),
        ("per_host = true\nschedule.cron = '* * * * *'",
         "per_host: excludes a schedule: a run is placed once, on one host"),
        ("exclusive = true\nschedule.cron = '* * * * *'",
         "exclusive: means nothing with a schedule: a run is placed once; see schedule.overlap"),
        ("rollout.surge = 0\nschedule.cron = '* * * * *'",
         "rollout: means nothing with a schedule: the next run is of the new release"),
        ("on_host_loss.action = 'wait'\nschedule.cron = '* * * * *'",
         "on_host_loss: means nothing with a schedule: a run is placed once"),
        ("restart = 'always'\nschedule.cron = '* * * * *'",
         'restart: "always" with a schedule: its runs would never be over'),
        ("ready.http = '/'\nschedule.cron = '* * * * *'",
         "ready.http: means nothing with a schedule: nobody waits for a run to be ready"),
        ("ready.notify = true\nschedule.cron = '* * * * *'",
         "ready.notify: means nothing with a schedule: nobody waits for a run to be ready"),
        ("stop.drain = 5\nschedule.cron = '* * * * *'",
         "stop.drain: means nothing with a schedule: nobody sends requests to a run"),
        ("on_host_loss.action = 'wait'\non_host_loss.after = 60",
         'on_host_loss.after: means nothing with action = "wait": nothing is replaced'),
        ("on_host_loss.action = 'wait'\non_host_loss.keep = 'best'",
         'on_host_loss.keep: means nothing with action = "wait": nothing is replaced'),
        ("exclusive = true\non_host_loss.keep = 'best'",
         "on_host_loss.keep: means nothing with exclusive: there are never two copies"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_key(lines: str, expected: str) -> None:
    (problem,) = problems(lines)
    assert problem.startswith(expected)


@pytest.mark.parametrize(
    "lines",
    [
        "resources.memory = '512MiB'\nlimits.memory = '512MiB'",
        "placement.require = ['zone=eu-*', 'zone!=eu-3', 'zone']",
        "port = 80\nplacement.max_per_host = 1",
        "placement.apart_from = ['worker']",
        "live.watchdog = 5\nready.grace = 60\nschedule.cron = '*/5 * * * *'",
        "live.exec = './alive'\nschedule.cron = '0 12 * * 1#1'",
        "exclusive = true\non_host_loss.action = 'wait'",
        "exclusive = true\non_host_loss.after = '1h'",
        "rollout.healthy = 0\nrollout.deadline = '1s'",
        "rollout.rollback = true",
    ],
)
def test_what_means_something_together_is_read(lines: str) -> None:
    assert read(lines).command == "x"


def test_a_type_of_the_same_app_may_be_named_in_full() -> None:
    app = 'app = "shop"'
    assert read("placement.apart_from = ['shop/worker']", app).where.apart_from == ("shop/worker",)
    (own,) = problems("placement.apart_from = ['shop/web']", app)
    assert own.startswith("placement.apart_from: shop/web is this type itself")
    (unknown,) = problems("placement.apart_from = ['shop/mail']", app)
    assert unknown.startswith("placement.apart_from: no type mail in this file")


# -- constraints -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "together"),
    [
        (["ssd", "!ssd"], '"ssd" and "!ssd"'),
        (["!zone", "zone=a"], '"!zone" and "zone=a"'),
        (["zone=a", "zone=b"], '"zone=a" and "zone=b"'),
        (["zone=a", "zone!=a"], '"zone=a" and "zone!=a"'),
        (["zone=a", "zone!=*"], '"zone=a" and "zone!=*"'),
        (["zone", "zone!=*"], '"zone" and "zone!=*"'),
        (["zone=eu-*", "zone!=eu-*"], '"zone=eu-*" and "zone!=eu-*"'),
        (["zone=eu-*", "zone=us-1"], '"zone=eu-*" and "zone=us-1"'),
        (["d in (a, b)", "x", "d not in (b, a)"], '"d in (a, b)" and "d not in (b, a)"'),
        (["ssd", "!gpu"], ""),
        (["zone=eu-*", "zone=*-1"], ""),
        (["zone=eu-*", "zone!=eu-3"], ""),
        (["d in (a, b)", "d!=a"], ""),
        (["!zone", "zone!=a"], ""),
    ],
)
def test_conditions_that_no_host_can_meet_are_found(texts: Sequence[str], together: str) -> None:
    found = [item for text in texts if (item := constraint(text))]
    assert len(found) == len(texts)
    assert contradiction(found) == together


LABELS = st.from_regex(r"[A-Za-z0-9_./-]{1,6}", fullmatch=True)
PATTERNS = st.from_regex(r"[a-z*?][a-z0-9*?=!.-]{0,4}", fullmatch=True)
CONSTRAINTS = st.builds(
    lambda label, operator, patterns: Constraint(
        label=label, operator=operator, patterns=tuple(patterns)
    ),
    LABELS,
    st.sampled_from(Operator),
    st.lists(PATTERNS, max_size=3),
)


@given(CONSTRAINTS)
def test_a_constraint_that_is_shown_can_be_read_again(item: Constraint) -> None:
    assert constraint(str(item)) == item


@given(
    st.lists(CONSTRAINTS.map(lambda item: replace(item, label="a")), max_size=4),
    st.dictionaries(st.just("a"), st.from_regex(r"[a-z0-9.-]{1,3}", fullmatch=True)),
)
def test_what_is_called_a_contradiction_is_met_by_no_host(
    required: Sequence[Constraint], labels: Mapping[str, str]
) -> None:
    if contradiction(required):
        assert not all(item.allows(labels) for item in required)


# -- cron and zones --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cron",
    ["* * * * *", "*/5 0-6,22 * JAN-MAR SUN", "0 0 L * *", "0 0 29 2 *", "0 12 * * MON#1"],
)
def test_five_fields_of_cron_are_read(cron: str) -> None:
    assert cron_problem(cron) == ""


@given(st.text(st.sampled_from("0123456789*/,-#L JANMON\t\n²é"), max_size=30))
def test_any_text_is_a_cron_or_has_a_problem(cron: str) -> None:
    assert isinstance(cron_problem(cron), str)


def test_a_cron_of_endless_digits_has_a_problem() -> None:
    assert cron_problem("0 0 * * " + "9" * 5000).startswith("'0 0 * * 999")
    assert len(cron_problem("9" * 5000)) < 400


def test_without_a_database_any_name_of_a_zone_that_is_well_formed_is_taken() -> None:
    assert zone_problem("Mars/Olympus").startswith("no time zone 'Mars/Olympus' is known; names")
    assert zone_problem("Mars/Olympus", known=()) == ""
    assert zone_problem("Mars Olympus", known=()).startswith("'Mars Olympus' is no time zone")
