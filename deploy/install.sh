#!/bin/sh
# Installs Formation on this machine, upgrades it, and takes it away again. Run as root:
#
#   deploy/install.sh coordinator agent --from dist/formctl-0.1.0-py3-none-any.whl
#   deploy/install.sh agent --from formctl --wheels /srv/wheels   # by name, without a network
#   deploy/install.sh --uninstall [--purge]
#
# What it makes: a virtual environment below /opt/formation/versions, /opt/formation/current that
# leads to it, links in /usr/local/bin, a user, directories, systemd units, and settings in
# /etc/formation, which it never overwrites. Run again with a newer wheel it upgrades: the new
# environment is complete before `current` is turned, a running agent becomes the new program in
# place, and the processes that it runs are not touched. It starts nothing that did not run.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
base=/opt/formation
programs="formctl formation-coordinator formation-agent"
units=/etc/systemd/system
roles='' from='' wheels='' dry_run='' uninstall='' purge=''

say() { printf 'install.sh: %s\n' "$*"; }
fail() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
misused() { printf 'install.sh: %s (--help says more)\n' "$*" >&2; exit 2; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; echo "Options: --dry-run shows what would be done."; }
# Shown, and done unless this is a rehearsal.
run() {
  printf '  %s\n' "$*"
  [ -n "$dry_run" ] || "$@"
}
has_role() { case " $roles " in *" $1 "*) ;; *) return 1 ;; esac; }
is_active() { [ -d /run/systemd/system ] && systemctl is-active --quiet "$1"; }
reload_systemd() { if [ -d /run/systemd/system ]; then run systemctl daemon-reload; fi; }

read_arguments() {
  while [ $# -gt 0 ]; do
    case $1 in
      coordinator | agent) has_role "$1" || roles="$roles $1" ;;
      --from | --wheels)
        if [ $# -lt 2 ] || [ -z "$2" ]; then misused "$1 needs a value"; fi
        if [ "$1" = --from ]; then from=$2; else wheels=$2; fi
        shift ;;
      --dry-run) dry_run=1 ;;
      --uninstall) uninstall=1 ;;
      --purge) purge=1 ;;
      --help | -h) usage; exit 0 ;;
      *) misused "what is $1?" ;;
    esac
    shift
  done
  [ -z "$purge" ] || [ -n "$uninstall" ] || misused "--purge goes with --uninstall"
  if [ -n "$uninstall" ]; then
    [ -z "$roles$from$wheels" ] || misused "--uninstall takes all of it away: no role, no --from"
  else
    [ -n "$roles" ] || misused "which role: coordinator, agent or both?"
    [ -n "$from" ] || misused "--from is missing: a wheel or a name that pip knows"
  fi
}

# Everything that can be wrong is looked for before anything is changed.
check() {
  [ -n "$dry_run" ] || [ "$(id -u)" = 0 ] || fail "this takes root (--dry-run does not)"
  command -v systemctl >/dev/null || fail "systemd is needed"
  [ -z "$uninstall" ] || return 0
  case $from in
    */* | *.whl) [ -f "$from" ] || fail "$from: no such file" ;;
  esac
  [ -z "$wheels" ] || [ -d "$wheels" ] || fail "$wheels: no such directory"
  python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "Python 3.11 or newer is needed as python3"
  python3 -c 'import ensurepip, venv' 2>/dev/null ||
    fail "python3 cannot make virtual environments: apt install python3-venv"
}

make_environment() {
  version=$base/versions/$(date -u +%Y%m%dT%H%M%SZ)
  [ ! -e "$version" ] || fail "$version is there already: another install.sh at work?"
  say "the programs, in an environment of their own"
  run mkdir -p "$base/versions"
  # Only a whole one stays.
  [ -n "$dry_run" ] || trap 'rm -rf "$version"' EXIT
  run python3 -m venv "$version"
  set -- --quiet --disable-pip-version-check
  [ -z "$wheels" ] || set -- "$@" --no-index --find-links "$wheels"
  run "$version/bin/pip" install "$@" "$from"
  for program in $programs; do
    # By way of `current`, so that an agent finds the next version where it found this one.
    run sed -i "1s|.*|#!$base/current/bin/python|" "$version/bin/$program"
  done
  run "$version/bin/python" -m formctl --version
}

turn_current() {
  say "from now on this version"
  run ln -sfn "$version" "$base/current.new"
  run mv -T "$base/current.new" "$base/current"
  [ -n "$dry_run" ] || trap - EXIT
  for program in $programs; do
    run ln -sf "$base/current/bin/$program" "/usr/local/bin/$program"
  done
}

install_role() {
  say "$1: user, directories, unit, settings"
  run install -D -m 644 "$here/sysusers.d/formation-$1.conf" "/usr/lib/sysusers.d/formation-$1.conf"
  run install -D -m 644 "$here/tmpfiles.d/formation-$1.conf" "/usr/lib/tmpfiles.d/formation-$1.conf"
  run systemd-sysusers "/usr/lib/sysusers.d/formation-$1.conf"
  run systemd-tmpfiles --create "/usr/lib/tmpfiles.d/formation-$1.conf"
  run install -D -m 644 "$here/systemd/formation-$1.service" "$units/formation-$1.service"
  if [ -e "/etc/formation/$1.toml" ]; then
    say "/etc/formation/$1.toml stays as it is"
  else
    run install -D -m 644 "$here/config/$1.toml" "/etc/formation/$1.toml"
  fi
}

# What runs becomes the new version: an agent in place, a coordinator by a restart.
renew() {
  if is_active "formation-$1"; then
    if [ "$1" = agent ]; then
      run systemctl reload formation-agent ||
        fail "the agent runs on as the old program, with all that it runs; why says journalctl -u formation-agent"
    else
      run systemctl restart formation-coordinator
    fi
  fi
}

# Beside the one in use the one before stays, to go back to by hand.
forget_old_versions() {
  [ -d "$base/versions" ] || return 0
  find "$base/versions" -mindepth 1 -maxdepth 1 -type d | sort | head -n -2 |
    while read -r old; do run rm -rf "$old"; done
}

say_what_next() {
  if has_role coordinator && ! is_active formation-coordinator; then
    say "next: the first coordinator makes the cluster (others: formation-coordinator join):"
    echo "  edit /etc/formation/coordinator.toml: listen, etcd"
    echo "  runuser -u formation -- env HOME=/var/lib/formation-coordinator formation-coordinator init \\"
    echo "    --identity-dir /var/lib/formation-coordinator --advertise ADDRESS:7100"
    echo "  systemctl enable --now formation-coordinator"
  fi
  if has_role agent && ! is_active formation-agent; then
    say "next: join, with the line of formctl token create --role agent, and start:"
    echo "  formation-agent join ADDRESS:7100 FORM1…"
    echo "  systemctl enable --now formation-agent"
  fi
}

do_uninstall() {
  say "what runs here is stopped, each instance with its grace"
  for role in agent coordinator; do
    if [ -e "$units/formation-$role.service" ]; then
      if is_active "formation-$role"; then run systemctl stop "formation-$role"; fi
      run systemctl disable --quiet "formation-$role"
    fi
    run rm -f "$units/formation-$role.service" "/usr/lib/sysusers.d/formation-$role.conf" \
      "/usr/lib/tmpfiles.d/formation-$role.conf"
  done
  reload_systemd
  for program in $programs; do run rm -f "/usr/local/bin/$program"; done
  run rm -rf "$base"
  if [ -n "$purge" ]; then
    say "keys, state and settings go too"
    run rm -rf /etc/formation /var/lib/formation /var/lib/formation-releases \
      /var/lib/formation-coordinator
    for user in formation formation-app; do
      if getent passwd "$user" >/dev/null; then run userdel "$user"; fi
    done
  else
    say "kept (--purge takes them): /etc/formation /var/lib/formation*, users formation*"
  fi
}

# In a function, so that the whole file is read before anything is done.
main() {
  read_arguments "$@"
  check
  [ -z "$dry_run" ] || say "a rehearsal: nothing is changed"
  if [ -n "$uninstall" ]; then
    do_uninstall
    return
  fi
  make_environment
  turn_current
  for role in $roles; do install_role "$role"; done
  reload_systemd
  for role in coordinator agent; do renew "$role"; done
  forget_old_versions
  say_what_next
}
main "$@"
