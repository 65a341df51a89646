#!/bin/sh
# Makes the certificate of the webhooks for spiderpoolController.tls.method=provided, see usage.
set -eu
umask 077
export LC_ALL=C # a-z are the 26 letters of ASCII

usage() {
  cat <<'USAGE'
Usage: generateCert.sh [--namespace=NAME] [--service=NAME] [--domain=DOMAIN] [--days=DAYS] DIRECTORY

Makes a certificate for the webhooks of spiderpool-controller and writes it to DIRECTORY, which is made if it is missing:

  ca.crt      what the API server trusts   spiderpoolController.tls.provided.tlsCa
  server.crt  the certificate              spiderpoolController.tls.provided.tlsCert
  server.key  its key, keep it secret      spiderpoolController.tls.provided.tlsKey

  --namespace  namespace of the release (kube-system)
  --service    spiderpoolController.name of the chart (spiderpool-controller)
  --domain     global.clusterDnsDomain of the chart (cluster.local)
  --days       how long the certificate is valid, 1 to 99999 (3650). Nobody renews it: run this again, and helm upgrade

The authority signs this one certificate, and its key is not kept. Run again, it makes all files anew; ca.crt then has the
authority before as well, so that the certificate that is still served stays trusted while a release is upgraded. To trust
it no more, remove ca.crt first. If anything fails, the files stay as they were.
USAGE
}

fail() {
  echo "generateCert.sh: $*" >&2
  exit 1
}

# label fails unless the value of an option is a label of DNS (RFC 1123), as names of namespaces and Services are.
label() {
  case $2 in
    "" | -* | *- | *[!a-z0-9-]*) fail "$1=$2 is not a name of a Kubernetes object" ;;
  esac
  [ ${#2} -le 63 ] || fail "$1=$2 is longer than the 63 characters of a name"
}

# run is openssl, which says what it does also when all is well.
run() {
  openssl "$@" 2>"$new/log" || { cat "$new/log" >&2; fail "openssl $1 failed, $dir is as it was"; }
}

namespace=kube-system service=spiderpool-controller domain=cluster.local days=3650 dir=
for argument in "$@"; do
  case $argument in
    -h | --help) usage; exit ;;
    --namespace=*) namespace=${argument#*=} ;;
    --service=*) service=${argument#*=} ;;
    --domain=*) domain=${argument#*=} ;;
    --days=*) days=${argument#*=} ;;
    -*) fail "$argument is not an option, see --help" ;;
    *) [ -z "$dir" ] || fail "one DIRECTORY is needed, see --help"; dir=$argument ;;
  esac
done
[ -n "$dir" ] || fail "one DIRECTORY is needed, see --help"
label --namespace "$namespace"
label --service "$service"
case $domain in
  "" | .* | *. | *..* | *[!a-z0-9.-]*) fail "--domain=$domain is not a DNS domain" ;;
esac
case $days in
  "" | 0* | *[!0-9]* | ??????*) fail "--days=$days is not a number of days from 1 to 99999" ;;
esac
command -v openssl >/dev/null || fail "openssl is missing: install the package openssl"

mkdir -p -- "$dir"
dir=$(CDPATH= cd -- "$dir" && pwd)
[ -n "$(find "$dir" -prune -user "$(id -u)" ! -perm -002)" ] ||
  fail "others could put a key of theirs into $dir: give a directory that you own and only you can write to"
new=$dir/.generateCert.$$
mkdir -- "$new"
trap 'rm -rf -- "$new"' EXIT
trap 'exit 1' HUP INT TERM

cat >"$new/config" <<CONFIG
[req]
prompt = no
distinguished_name = authority_name
[authority_name]
CN = spiderpool-ca
[server_name]
CN = $service
[authority]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[server]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = DNS:$service.$namespace.svc, DNS:$service.$namespace.svc.$domain, DNS:$service.$namespace, DNS:$service
CONFIG
run ecparam -name prime256v1 -genkey -noout -out "$new/ca.key"
run req -new -x509 -sha256 -config "$new/config" -extensions authority -key "$new/ca.key" -days $((days + 1)) -out "$new/ca.crt"
run ecparam -name prime256v1 -genkey -noout -out "$new/server.key"
run req -new -config "$new/config" -subj "/CN=$service" -key "$new/server.key" -out "$new/request"
run x509 -req -sha256 -in "$new/request" -CA "$new/ca.crt" -CAkey "$new/ca.key" -CAcreateserial \
  -days "$days" -extfile "$new/config" -extensions server -out "$new/server.crt"
if [ -e "$dir/ca.crt" ]; then
  openssl x509 -in "$dir/ca.crt" >>"$new/ca.crt" 2>/dev/null || fail "$dir/ca.crt is not a certificate: remove it"
fi
chmod 644 "$new/ca.crt" "$new/server.crt"

trap '' HUP INT TERM
mv -f -- "$new/ca.crt" "$new/server.key" "$new/server.crt" "$dir/"
echo "$dir has ca.crt, server.crt and server.key for $service.$namespace.svc, valid for $days days"
