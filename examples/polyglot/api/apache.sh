#!/bin/sh
# Apache in the foreground: many children under one instance, the port from the environment.
modules=/usr/lib/apache2/modules
run=$(mktemp -d) || exit 1
export RUN_DIR="$run" HERE="$PWD"
php=$(ls "$modules"/libphp*.so | head -n 1)
[ -n "$php" ] || { echo "no PHP for Apache: apt install libapache2-mod-php" >&2; exit 1; }
# Where Debian has it, and a user who is not root does not look.
PATH="$PATH:/usr/sbin"
exec apache2 -DFOREGROUND -f "$PWD/apache.conf" -C "LoadModule php_module $php"
