#!/bin/sh
# A Debian package of a wheel, with all that it needs in an environment below /opt/formation:
#   tools/makedeb.sh dist/formctl-0.1.0-py3-none-any.whl dist
# Built with the Python that it will run with: Debian 12's for Debian 12.
set -eu
if [ $# != 2 ] || [ ! -f "$1" ]; then echo "makedeb.sh: usage: makedeb.sh WHEEL DIRECTORY" >&2; exit 2; fi
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-/usr/bin/python3}
pip_python=${PIP_PYTHON:-$python}
version=$(basename "$1" | cut -d- -f2)
tag_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }
tag=$(tag_of "$python")
if [ "$(tag_of "$pip_python")" != "$tag" ]; then
  echo "makedeb.sh: $pip_python is not Python $tag as $python is: make deb VENV=.venv-deb PYTHON=$python" >&2
  exit 1
fi
arch=$(dpkg --print-architecture)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tree=$work/tree
current=$tree/opt/formation/current

# Where it will be, python3 is Debian's: a link there, and paths of the place it will have.
"$python" -m venv --without-pip "$current"
"$pip_python" -m pip install --quiet --disable-pip-version-check --no-compile \
  --target "$current/lib/python$tag/site-packages" "$1"
rm -rf "$current/lib/python$tag/site-packages/bin" "$current"/bin/[Aa]ctivate*
ln -sfn /usr/bin/python3 "$current/bin/python3"
ln -sfn python3 "$current/bin/python"
rm -f "$current/bin/python$tag"
printf 'home = /usr/bin\ninclude-system-site-packages = false\nversion = %s\n' "$tag" >"$current/pyvenv.cfg"
mkdir -p "$tree/usr/bin"
for pair in formctl=formctl formation-coordinator=formation_coordinator formation-agent=formation_agent; do
  program=${pair%=*}
  printf '#!/opt/formation/current/bin/python\nimport sys\nfrom %s.__main__ import main\nsys.exit(main())\n' \
    "${pair#*=}" >"$current/bin/$program"
  chmod 755 "$current/bin/$program"
  ln -s "/opt/formation/current/bin/$program" "$tree/usr/bin/$program"
done
for role in coordinator agent; do
  name=formation-$role
  install -D -m 644 "$root/deploy/sysusers.d/$name.conf" "$tree/usr/lib/sysusers.d/$name.conf"
  install -D -m 644 "$root/deploy/tmpfiles.d/$name.conf" "$tree/usr/lib/tmpfiles.d/$name.conf"
  install -D -m 644 "$root/deploy/config/$role.toml" "$tree/etc/formation/$role.toml"
  mkdir -p "$tree/lib/systemd/system"
  sed 's|/usr/local/bin/|/usr/bin/|g' "$root/deploy/systemd/$name.service" >"$tree/lib/systemd/system/$name.service"
done
mkdir "$tree/DEBIAN"
cat >"$tree/DEBIAN/control" <<END
Package: formation
Version: $version
Architecture: $arch
Maintainer: Formation <formation@localhost>
Section: admin
Priority: optional
Depends: python3 (>= $tag), python3 (<< ${tag%.*}.$((${tag#*.} + 1))), systemd
Installed-Size: $(du -ks "$tree" | cut -f1)
Description: runs twelve-factor process formations over machines, without containers
 Coordinator, agent and formctl. Neither is started before it was told of a cluster.
END
printf '/etc/formation/coordinator.toml\n/etc/formation/agent.toml\n' >"$tree/DEBIAN/conffiles"
install -m 755 "$root"/deploy/debian/* "$tree/DEBIAN/"
chmod -R go-w "$tree"
dpkg-deb --root-owner-group --build "$tree" "$2/formation_${version}_$arch.deb"
