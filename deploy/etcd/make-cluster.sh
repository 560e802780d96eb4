#!/bin/sh
# Certificates and settings for an etcd of several machines, which coordinators use with TLS:
#
#   deploy/etcd/make-cluster.sh /root/etcd-cluster h1=10.0.0.1 h2=10.0.0.2 h3=10.0.0.3
#
# DIRECTORY/NAME is what that machine gets as /etc/formation-etcd, DIRECTORY/coordinator what each
# coordinator's gets as /etc/formation/etcd, and DIRECTORY/authorities stays where keys are kept.
# Two authorities: one for etcd's own members among each other, one for who asks them. Neither is
# Formation's, whose certificates hosts have too: a host must not reach etcd.
# Run again it makes new certificates of the same authorities, for two years.
set -eu

days=730
authority_days=3650

fail() { printf 'make-cluster.sh: %s\n' "$*" >&2; exit 1; }
misused() { printf 'make-cluster.sh: %s (--help says more)\n' "$*" >&2; exit 2; }
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }

new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

# make_authority NAME WHAT
make_authority() {
  key=$authorities/$1-key.pem
  [ ! -e "$key" ] || return 0
  new_key "$key"
  openssl req -x509 -new -sha256 -key "$key" -out "$authorities/$1.pem" -days "$authority_days" \
    -subj "/CN=$2" -addext keyUsage=critical,keyCertSign,cRLSign
}

# sign AUTHORITY FILE COMMON-NAME USE [SUBJECT-ALTERNATIVE-NAMES], with the key that lies there
sign() {
  {
    echo "basicConstraints=critical,CA:FALSE"
    echo "keyUsage=critical,digitalSignature"
    echo "extendedKeyUsage=$4"
    [ -z "${5:-}" ] || echo "subjectAltName=$5"
  } >"$work/extensions"
  openssl req -new -sha256 -key "$2-key.pem" -subj "/CN=$3" -out "$work/request"
  openssl x509 -req -sha256 -in "$work/request" -days "$days" -extfile "$work/extensions" \
    -CA "$authorities/$1.pem" -CAkey "$authorities/$1-key.pem" \
    -set_serial "0x$(openssl rand -hex 16)" -out "$2.pem" 2>"$work/said" || fail "$(cat "$work/said")"
}

is_ip() { case $1 in *:* | *.*.*.*) case $1 in *[!0-9a-fA-F.:]*) return 1 ;; esac ;; *) return 1 ;; esac; }
in_url() { case $1 in *:*) printf '[%s]' "$1" ;; *) printf '%s' "$1" ;; esac; }

# make_member NAME ADDRESS
make_member() {
  place=$directory/$1
  mkdir -p "$place"
  url=https://$(in_url "$2")
  if is_ip "$2"; then
    names="IP:$2" listen=$url
  else
    names="DNS:$2" listen=https://0.0.0.0 # etcd listens at numbers only
  fi
  # Loopback: for etcdctl on the machine itself.
  names=$names,IP:127.0.0.1,DNS:localhost
  # RSA: before 3.5.10 etcd may speak TLS 1.2 only, which coordinators do with RSA alone.
  openssl genrsa -out "$place/server-key.pem" 3072 2>"$work/said" || fail "$(cat "$work/said")"
  sign clients "$place/server" "etcd $1" serverAuth "$names"
  new_key "$place/peer-key.pem"
  sign peers "$place/peer" "etcd $1" serverAuth,clientAuth "$names"
  cp "$authorities/clients.pem" "$place/ca.pem"
  cp "$authorities/peers.pem" "$place/peer-ca.pem"
  cat >"$place/etcd.env" <<END
ETCD_NAME=$1
ETCD_INITIAL_CLUSTER=$cluster
ETCD_INITIAL_CLUSTER_TOKEN=formation
ETCD_INITIAL_CLUSTER_STATE=new
ETCD_LISTEN_CLIENT_URLS=$listen:2379
ETCD_ADVERTISE_CLIENT_URLS=$url:2379
ETCD_LISTEN_PEER_URLS=$listen:2380
ETCD_INITIAL_ADVERTISE_PEER_URLS=$url:2380
END
}

case ${1:-} in --help | -h) usage; exit 0 ;; esac
[ $# -ge 2 ] || misused "DIRECTORY and at least one NAME=ADDRESS are needed"
directory=$1
shift
cluster='' endpoints=''
for member in "$@"; do
  case $member in
    =* | *= | *[!A-Za-z0-9.:=_-]* | *=*=*) misused "$member: not a NAME=ADDRESS" ;;
    authorities=* | coordinator=* | .*) misused "$member: another name is needed" ;;
    *=*) ;;
    *) misused "$member: not a NAME=ADDRESS" ;;
  esac
  url=https://$(in_url "${member#*=}")
  cluster=${cluster:+$cluster,}${member%%=*}=$url:2380
  endpoints=${endpoints:+$endpoints,}$url:2379
done
command -v openssl >/dev/null || fail "openssl is missing: apt-get install openssl"

umask 077
authorities=$directory/authorities
mkdir -p "$authorities" "$directory/coordinator"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
make_authority clients "etcd of Formation, clients"
make_authority peers "etcd of Formation, peers"
for member in "$@"; do make_member "${member%%=*}" "${member#*=}"; done
# Nobody's user name in etcd: with the certificate alone one may connect, and nothing else.
new_key "$directory/coordinator/client-key.pem"
sign clients "$directory/coordinator/client" "formation coordinator" clientAuth
cp "$authorities/clients.pem" "$directory/coordinator/ca.pem"
echo "made: $directory; for /etc/formation/coordinator.toml:"
echo "etcd = \"$endpoints\""
